"""``steptrace perturb``: every input is moved to the next number, and nothing else is changed."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from steptrace_analyzer import diff, open_trace
from steptrace_analyzer.cli import app
from steptrace_analyzer.differences import ulp_distance
from steptrace_analyzer.trace.select import get_tensor, tensor_paths
from steptrace_schema.errors import TraceError
from steptrace_schema.format.policy import Policy
from steptrace_tracer.scripts.every_fit import every_fit
from steptrace_tracer.scripts.one_ulp import one_ulp
from steptrace_tracer.scripts.perturb_fit import perturb_fit
from steptrace_tracer.scripts.record_script import record_script
from steptrace_tracer.scripts.script import Script

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

X = np.random.default_rng(0).normal(size=(16, 3)).astype("f4")
Y = X[:, :2].copy()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_number_is_moved_to_a_neighbour(dtype: str) -> None:
    values = np.random.default_rng(1).normal(size=(5, 200)).astype(dtype)
    assert (ulp_distance(values, one_ulp(values, dtype)) == 1).all()


def test_zeros_and_what_is_not_finite_stay() -> None:
    largest = np.finfo("f4").max
    values = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, largest], "f4")
    moved = one_ulp(values, "float32")
    assert moved[:5].tobytes() == values[:5].tobytes()
    assert np.isfinite(moved[5])
    whole = np.arange(5)
    assert one_ulp(whole, "float32") is whole


def test_numbers_of_more_bits_are_moved_in_the_type_that_the_model_computes_in() -> None:
    values = np.random.default_rng(1).normal(size=300)
    moved = one_ulp(values, "float32").astype("f4")
    assert (ulp_distance(values.astype("f4"), moved) == 1).all()
    brain = one_ulp(values.astype("f4"), "bfloat16").astype(ml_dtypes.bfloat16)
    apart = brain.view("u2").astype(int) - values.astype(ml_dtypes.bfloat16).view("u2").astype(int)
    assert set(apart) == {-1, 1}


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        part = slice(8 * index, 8 * index + 8)
        return X[part], Y[part]


def generator() -> Any:
    while True:
        yield from (Batches()[0], Batches()[1])


FORMS: dict[str, Callable[[], dict[str, Any]]] = {
    "arrays": lambda: {"x": X, "y": Y, "batch_size": 8},
    "tensors": lambda: {"x": tf.constant(X), "y": tf.constant(Y), "batch_size": 8},
    "float64": lambda: {"x": X.astype("f8"), "y": Y, "batch_size": 8},
    "data set": lambda: {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)},
    "PyDataset": lambda: {"x": Batches()},
    "generator": lambda: {"x": generator(), "steps_per_epoch": 2},
}


class Seen(keras.Model):  # type: ignore[misc]
    """Keeps the batches that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(2)
        self.batches: list[Any] = []

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def train_step(self, data: Any) -> Any:
        self.batches.append([part.numpy() for part in data[:2]])
        return super().train_step(data)


@pytest.mark.parametrize("form", FORMS)
def test_the_inputs_of_data_in_every_form_are_moved_and_the_targets_stay(form: str) -> None:
    model = Seen()
    model.compile("sgd", "mse", run_eagerly=True)
    with every_fit(lambda present: [keras.callbacks.Callback()], change=perturb_fit):
        model.fit(**FORMS[form](), shuffle=False, verbose=0)
    x, y = (np.concatenate([batch[n] for batch in model.batches]) for n in (0, 1))
    assert (ulp_distance(X, x.astype("f4")) == 1).all()
    assert (y == Y).all()


def test_the_weights_are_moved_where_the_inputs_are_whole_numbers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = keras.Sequential([keras.Input((4,), dtype="int32"), layers.Embedding(9, 2)])
    before = model.get_weights()[0]
    moved: list[Any] = []

    class Look(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            moved.append(self.model.get_weights()[0])

    model.compile("sgd", "mse")
    with every_fit(lambda present: [Look()], change=perturb_fit):
        model.fit(np.ones((8, 4), "i4"), np.ones((8, 4, 2)), verbose=0)
    assert (ulp_distance(before, moved[0]) == 1).all()
    assert "its initial weights are changed" in capsys.readouterr().err


def test_data_that_cannot_be_changed_are_refused() -> None:
    model = Seen()
    model.compile("sgd", "mse")
    with (
        every_fit(lambda present: [keras.callbacks.Callback()], change=perturb_fit),
        pytest.raises(TraceError, match="the data of fit are NoneType, whose inputs cannot be"),
    ):
        model.fit(None)


def test_the_command_records_the_perturbed_script(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = tmp_path / "train.py", tmp_path / "moved.zarr"
    text = """
        import sys
        import numpy as np
        from keras_models import mlp, vectors
        x, y = vectors(16)
        np.save(sys.argv[1], x)
        mlp().fit(x, y, batch_size=8, verbose=0, shuffle=False)
        sys.exit(3)
    """
    path.write_text(textwrap.dedent(text))
    data = tmp_path / "x.npy"
    assert app.run(["perturb", "-o", str(target), str(path), str(data)]) == 3
    assert f"steptrace: traces: {target}" in capsys.readouterr().err
    recorded = np.asarray(open_trace(target)["inputs/x"])
    given = np.load(data).reshape(2, 8, 3)[:, : recorded.shape[1]]
    assert (ulp_distance(given, recorded) == 1).all()
    assert app.run(["perturb", "-o", "s3://bucket/a.zarr", str(path)]) == 2
    assert "perturb writes only to a local path" in capsys.readouterr().err


def test_a_perturbed_script_shows_what_rounding_makes(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    text = """
        import keras
        from keras_models import mlp, vectors
        keras.utils.set_random_seed(1)
        model = mlp()
        model.fit(*vectors(64), batch_size=8, epochs=2, verbose=0, shuffle=False)
    """
    path.write_text(textwrap.dedent(text))
    runs = {}
    for name, changed in (("a", False), ("b", False), ("perturbed", True)):
        target = tmp_path / f"{name}.zarr"
        found = record_script(Script(str(path)), target, Policy(), perturb=changed)
        assert (found.exit_status, found.traces) == (0, (target,))
        runs[name] = target
    assert diff(runs["a"], runs["b"]).verdict == "equal"
    x, moved = (np.asarray(open_trace(runs[name])["inputs/x"]) for name in ("a", "perturbed"))
    assert (ulp_distance(x, moved) == 1).all()
    away = diff(runs["a"], runs["perturbed"])
    assert away.divergence is not None
    assert away.divergence.place is not None
    assert (away.verdict, away.divergence.place.step) == ("differs", 0)
    within = diff(runs["a"], runs["perturbed"], rounding=runs["perturbed"])
    assert within.verdict == "within noise"
    assert within.noise is not None
    assert within.noise.ratio is not None
    assert ("nothing is farther apart" in str(within.noise)) is (within.noise.ratio == 0)


LOOP = """
    import sys
    import keras
    import numpy as np
    import tensorflow as tf
    from keras_models import mlp, vectors
    from steptrace_tracer import Tracer
    keras.utils.set_random_seed(1)
    model, optimizer = mlp(), keras.optimizers.SGD(0.1)
    x, y = vectors(32)
    loss_of = keras.losses.MeanSquaredError()

    @tf.function
    def compiled(batch):
        with tf.GradientTape() as tape:
            loss = loss_of(batch["label"], model(batch["x"], training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    def eager(x, y):
        return compiled.python_function({"x": x, "label": y})

    def taken(iterator):
        x, y = next(iterator)
        return eager(x, y)

    def batches():
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(8)

    kind = sys.argv[1]
    with Tracer("own.zarr") as tracer:
        if kind == "compiled":
            step = tracer.wrap(compiled)
            for a, b in batches():
                step({"x": a, "label": b})
        elif kind == "eager":
            step = tracer.wrap(eager)
            for a, b in batches():
                step(a, b)
        elif kind == "arrays":
            model.compile(optimizer, loss_of)
            step = tracer.wrap(model.train_on_batch)
            for a, b in batches().as_numpy_iterator():
                step(a, b)
        elif kind == "iterator":
            step = tracer.wrap(taken, models=[model], optimizers=[optimizer])
            data = iter(batches())
            for _ in range(4):
                step(data)
        else:
            model.compile(optimizer, loss_of)
            for _ in range(2):
                model.fit(x, y, batch_size=16, shuffle=False, verbose=0, callbacks=[tracer])
"""


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", ["compiled", "own tracer", "eager", "iterator", "arrays"])
def test_custom_loops_and_fits_with_their_own_tracer_are_perturbed(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(LOOP))
    assert Script(str(script), (kind,)).run() == 0
    plain, target = open_trace(tmp_path / "own.zarr"), tmp_path / "moved.zarr"
    assert app.run(["perturb", "-o", str(target), str(script), kind]) == 0
    assert f"steptrace: traces: {target}\n" in capsys.readouterr().err
    moved = open_trace(target)
    kernel = tensor_paths(plain, "weights")[0]
    before, after = (get_tensor(tree, "weights", kernel).values for tree in (plain, moved))
    x, other = (np.asarray(tree["inputs/x"]) for tree in (plain, moved))
    y, same = (np.asarray(tree["inputs/y"]) for tree in (plain, moved))
    assert len(before) == len(after) == 5
    assert y.tobytes() == same.tobytes()
    if kind == "iterator":
        assert x.tobytes() == other.tobytes()
        assert (ulp_distance(before[0], after[0])[before[0] != 0] == 1).all()
    else:
        assert (ulp_distance(x, other) == 1).all()
        assert before[0].tobytes() == after[0].tobytes()
    assert before[-1].tobytes() != after[-1].tobytes()
    # The script's own trace is as it was, and the next perturbed one needs to be allowed.
    assert open_trace(tmp_path / "own.zarr").identical(plain)
    assert app.run(["perturb", "-o", str(target), str(script), kind]) == 2
    assert "exists" in capsys.readouterr().err
    assert app.run(["perturb", "--overwrite", "-o", str(target), str(script), kind]) == 0
