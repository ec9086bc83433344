"""What is recorded, against independent computations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import xxhash
import zarr

from keras_models import (
    MODES,
    Mode,
    cnn,
    functional_mlp,
    images,
    mlp,
    subclassed_mlp,
    vectors,
    weights_of,
)
from steptrace_schema.names import STATISTIC_NAMES
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

BATCH = 8


class Trace:
    """A finished trace, read with plain zarr."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.group = zarr.open_group(path, mode="r")
        self.attributes = read_attributes(path)

    def __getitem__(self, key: str) -> npt.NDArray[Any]:
        return np.asarray(self.group[key])

    def __contains__(self, key: str) -> bool:
        return key in self.group

    def paths(self, kind: str) -> list[str]:
        members = self.group[kind].members(max_depth=None)  # type: ignore[union-attr]
        return sorted(k for k, a in members if isinstance(a, zarr.Array) and k != "step")


def record(
    tmp_path: Path, model: Any, x: Any, y: Any = None, *, epochs: int = 2, **fields: Any
) -> Trace:
    fields.setdefault("samples", BATCH)
    tracer = Tracer(tmp_path / "run.zarr", on_error="raise", **fields)
    keywords = {} if y is None else {"y": y, "batch_size": BATCH}
    model.fit(x, **keywords, shuffle=False, epochs=epochs, verbose=0, callbacks=[tracer])
    assert validate(tmp_path / "run.zarr") == []
    return Trace(tmp_path / "run.zarr")


@pytest.mark.parametrize("mode", MODES)
def test_gradients_equal_those_of_a_second_tape(tmp_path: Path, mode: Mode) -> None:
    trace = record(tmp_path, mlp(mode), *vectors())
    again = mlp("eager")
    for step in range(6):
        for variable in again.weights:
            variable.assign(trace[f"weights/{variable.path}"][step])
        x = tf.constant(trace["inputs/x"][step])
        y = tf.constant(trace["inputs/y"][step])
        with tf.GradientTape() as tape:
            tape.watch(x)
            hidden = again.layers[0](x)
            out = again.layers[1](hidden)
            loss = tf.reduce_mean(tf.square(out - y))
        variables = [v.value for v in again.trainable_weights]
        found = tape.gradient(loss, [*variables, x, hidden, out])
        names = [f"gradients/{v.path}" for v in again.trainable_weights]
        names += ["inputs/x_gradient"]
        names += [f"activation_gradients/mlp/{layer}/output" for layer in ("hidden", "out")]
        assert trace["scalars/loss"][step] == pytest.approx(float(loss), rel=1e-6)
        for name, expected in zip(names, found, strict=True):
            np.testing.assert_allclose(trace[name][step], expected, rtol=2e-5, atol=1e-7)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("mode", MODES)
def test_the_weights_move_by_the_formula_of_gradient_descent(tmp_path: Path, mode: Mode) -> None:
    model = mlp(mode, rate=0.25)  # a power of two, so that the product is exact
    initial = weights_of(model)
    trace = record(tmp_path, model, *vectors())
    for index, variable in enumerate(model.weights):
        weights = trace[f"weights/{variable.path}"]
        gradients = trace[f"gradients/{variable.path}"]
        assert len(weights) == len(gradients) + 1 == 7
        assert (weights[0] == initial[index]).all()
        assert (weights[-1] == variable.numpy()).all()
        assert (weights[1:] == weights[:-1] - np.float32(0.25) * gradients).all()
    assert trace["weights/step"].tolist() == list(range(7))
    assert trace["gradients/step"].tolist() == list(range(6))
    assert (trace["scalars/learning_rate"] == 0.25).all()


@pytest.mark.parametrize("build", [mlp, functional_mlp, subclassed_mlp])
def test_outputs_and_preactivations_equal_numpy(tmp_path: Path, build: Callable[[], Any]) -> None:
    model = build()
    x, y = vectors()
    trace = record(tmp_path, model, x, y)
    paths = {layer.path.rpartition("/")[2]: layer for layer in trace.attributes.layers}
    hidden, out = paths["hidden"].path, paths["out"].path
    kernel, bias = (trace[f"weights/{path}"] for path in paths["hidden"].variables)
    kernel_2, bias_2 = (trace[f"weights/{path}"] for path in paths["out"].variables)
    batches = trace["inputs/x"]
    assert (batches == np.concatenate([x, x]).reshape(6, BATCH, 3)).all()
    assert (trace["inputs/y"] == np.concatenate([y, y]).reshape(6, BATCH, 2)).all()
    for step in range(6):
        before = batches[step] @ kernel[step] + bias[step]
        after = np.tanh(before)
        result = after @ kernel_2[step] + bias_2[step]
        np.testing.assert_allclose(
            trace[f"activations/{hidden}/output"][step], after, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            trace[f"activations/{out}/output"][step], result, rtol=1e-5, atol=1e-6
        )
        probe = x[:BATCH] @ kernel[step] + bias[step]
        np.testing.assert_allclose(
            trace[f"probe/{hidden}/preactivation"][step], probe, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            trace[f"probe/{hidden}/output"][step], np.tanh(probe), rtol=1e-5, atol=1e-6
        )
    assert (trace["probe/x"] == x[:BATCH]).all()
    assert paths["hidden"].activation == "tanh"
    assert paths["out"].activation is None
    assert trace.paths("probe") == [f"{hidden}/output", f"{hidden}/preactivation", "x"]


def test_the_probe_takes_the_inputs_that_it_is_given(tmp_path: Path) -> None:
    x, y = vectors()
    chosen = np.full((3, 3), 0.5, np.float32)
    trace = record(tmp_path, mlp(), x, y, probe=chosen)
    before = chosen @ trace["weights/mlp/hidden/kernel"][5] + trace["weights/mlp/hidden/bias"][5]
    np.testing.assert_allclose(trace["probe/mlp/hidden/preactivation"][5], before, rtol=1e-5)


def test_arrays_and_data_sets_give_the_same_trace(tmp_path: Path) -> None:
    x, y = vectors()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a = record(tmp_path / "a", mlp(), x, y)
    b = record(tmp_path / "b", mlp(), tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH))
    for kind in ("weights", "gradients", "activations", "activation_gradients", "inputs", "probe"):
        assert a.paths(kind) == b.paths(kind)
        for path in a.paths(kind):
            assert a[f"{kind}/{path}"].tobytes() == b[f"{kind}/{path}"].tobytes()


def test_a_smaller_last_batch_is_recorded_with_its_size(tmp_path: Path) -> None:
    x, y = vectors(18)
    trace = record(tmp_path, mlp(), x, y, samples=4)
    assert trace["scalars/batch_size"].tolist() == [8, 8, 2] * 2
    assert trace["scalars/epoch"].tolist() == [0, 0, 0, 1, 1, 1]
    assert trace["scalars/batch"].tolist() == [0, 1, 2] * 2
    assert (trace["inputs/x"][2, :2] == x[16:]).all()
    assert np.isnan(trace["inputs/x"][2, 2:]).all()
    assert (trace["inputs/sample_digest"][2, 2:] == -1).all()


def test_digests_name_samples_by_their_bytes(tmp_path: Path) -> None:
    x, y = vectors()
    digests = record(tmp_path, mlp(), x, y)["inputs/sample_digest"]
    expected = [xxhash.xxh3_64_intdigest(row.tobytes()) for row in x]
    assert digests.astype(np.uint64).reshape(-1).tolist() == expected * 2


def test_every_third_step_with_its_update(tmp_path: Path) -> None:
    trace = record(tmp_path, mlp(rate=0.25), *vectors(), epochs=3, every=3)
    assert trace["gradients/step"].tolist() == [0, 3, 6]
    assert trace["weights/step"].tolist() == [0, 3, 6, 9]
    assert trace["updates/step"].tolist() == [0, 3, 6]
    gradients = trace["gradients/mlp/hidden/kernel"]
    weights, updates = (trace[f"{k}/mlp/hidden/kernel"] for k in ("weights", "updates"))
    after = weights[:3] - np.float32(0.25) * gradients
    assert (updates == after - weights[:3]).all()
    norm = np.linalg.norm(updates[1].astype(np.float64))
    column = STATISTIC_NAMES.index("l2")
    tensors = trace.group["statistics/updates/values"].attrs["tensors"]
    assert isinstance(tensors, list)
    row = tensors.index("mlp/hidden/kernel")
    assert trace["statistics/updates/values"][1, row, column] == pytest.approx(norm)


def test_metrics_and_loss_are_those_of_keras(tmp_path: Path) -> None:
    x, y = images()
    seen: list[dict[str, float]] = []

    class Logs(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append({k: float(v) for k, v in logs.items()})

    tracer = Tracer(tmp_path / "run.zarr", on_error="raise")
    cnn().fit(x, y, batch_size=8, epochs=1, verbose=0, callbacks=[tracer, Logs()])
    trace = Trace(tmp_path / "run.zarr")
    assert trace["scalars/metrics/accuracy"].tolist() == [logs["accuracy"] for logs in seen]
    running = np.cumsum(trace["scalars/loss"]) / np.arange(1, 6)
    assert running == pytest.approx([logs["loss"] for logs in seen], rel=1e-5)


def test_the_gradient_of_a_softmax_is_recorded_at_its_logits(tmp_path: Path) -> None:
    x, y = images(8)
    trace = record(tmp_path, cnn(), x, y, epochs=1)
    last = trace.attributes.layers[-1].path
    output = trace[f"activations/{last}/output"]
    logits = trace[f"activation_gradients/{last}/logits"]
    one_hot = np.eye(3, dtype=np.float32)[y]
    # Gradient of the mean cross-entropy with respect to the logits: (softmax - one-hot) / batch.
    np.testing.assert_allclose(logits[0], (output[0] - one_hot) / 8, atol=1e-6)
    (missing,) = trace.attributes.missing
    assert "logits" in missing.reason


def test_the_gradient_of_a_sigmoid_is_recorded_at_its_output_unless_the_loss_takes_its_logits(
    tmp_path: Path,
) -> None:
    keras.utils.set_random_seed(0)
    x = keras.Input((3,))
    gate = keras.layers.Dense(4, activation="sigmoid", name="gate")(x)
    model = keras.Model(x, keras.layers.Dense(2, activation="softmax", name="out")(gate))
    model.compile("sgd", "mse")
    trace = record(tmp_path, model, *vectors(), epochs=1)
    assert trace.attributes.missing == ()
    out, y = trace["activations/out/output"][0], trace["inputs/y"][0]
    of_out = trace["activation_gradients/out/output"][0]
    np.testing.assert_allclose(of_out, 2 * (out - y) / y.size, rtol=1e-5, atol=1e-8)
    of_logits = out * (of_out - (out * of_out).sum(axis=1, keepdims=True))
    of_gate = of_logits @ trace["weights/out/kernel"][0].T
    found = trace["activation_gradients/gate/output"][0]
    np.testing.assert_allclose(found, of_gate, rtol=1e-4, atol=1e-7)
    assert trace.paths("activation_gradients") == ["gate/output", "out/output"]


def test_dropout_is_recorded_as_it_was_in_the_step(tmp_path: Path) -> None:
    x, y = images(8)
    trace = record(tmp_path, cnn(), x, y, epochs=1)
    layers = {layer.class_name: layer.path for layer in trace.attributes.layers}
    flat = trace[f"activations/{layers['Flatten']}/output"][0]
    dropped = trace[f"activations/{layers['Dropout']}/output"][0]
    kept = dropped != 0
    assert 0.5 < kept[flat != 0].mean() < 0.9
    np.testing.assert_allclose(dropped[kept], flat[kept] / 0.7, rtol=1e-6)


def test_the_policy_picks_kinds_and_paths(tmp_path: Path) -> None:
    trace = record(
        tmp_path,
        mlp(),
        *vectors(),
        kinds=("weights", "gradients"),
        include=("*/hidden/*",),
        exclude=("*/bias",),
    )
    assert trace.paths("weights") == ["mlp/hidden/kernel"]
    assert trace.paths("gradients") == ["mlp/hidden/kernel"]
    assert {k for k in trace.group} == {"scalars", "weights", "gradients", "statistics"}
    assert trace.attributes.declared["weights"] == ("mlp/hidden/kernel",)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # what the model is made for
def test_what_has_no_gradient_is_missing_with_a_reason(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    x = keras.Input((3,))
    stop = keras.layers.Lambda(tf.stop_gradient)(keras.layers.Dense(4, name="frozen_out")(x))
    model = keras.Model(x, keras.layers.Dense(2, name="out")(stop))
    model.compile("sgd", "mse")
    trace = record(tmp_path, model, *vectors())
    reasons = {f"{m.kind}/{m.path}": m.reason for m in trace.attributes.missing}
    assert "does not depend" in reasons["gradients/frozen_out/kernel"]
    assert "does not depend" in reasons["activation_gradients/frozen_out/output"]
    assert "does not depend" in reasons["inputs/x_gradient"]
    assert "gradients/frozen_out/kernel" not in trace


def test_the_trace_says_what_was_trained(tmp_path: Path) -> None:
    model = cnn()
    trace = record(tmp_path, model, *images(), epochs=1)
    about = trace.attributes
    assert about.status == "complete"
    assert about.model is not None
    assert about.model.parameters == model.count_params()
    assert about.optimizer is not None
    assert about.optimizer.class_name == "Adam"
    assert about.loss == "sparse_categorical_crossentropy"
    assert about.environment["keras"] == keras.__version__
    shapes = {layer.class_name: layer.output_shape for layer in about.layers}
    assert shapes["Conv2D"] == (None, 6, 6, 4)
    paths = sorted(path for layer in about.layers for path in layer.variables)
    assert paths == trace.paths("weights")
