"""Several steps in one execution, as ``steps_per_execution`` asks for, each recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr
from keras import layers

from keras_models import weights_of
from steptrace_schema.journal.writer import JournalWriter
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer
from steptrace_tracer.capture import proof_times
from steptrace_tracer.capture.several_steps import SeveralSteps
from steptrace_tracer.session import executions as module
from steptrace_tracer.session import traced_fit

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

BATCHES = 7
ROWS = 8 * (BATCHES - 1) + 3
"""Of an epoch, whose last batch is smaller."""
_TIMES = ("scalars/wall_time", "scalars/step_duration")


@pytest.fixture
def executions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the steps of each execution that did several."""
    run, counts = SeveralSteps.run, []

    def counted(self: SeveralSteps, iterator: Any, step: int) -> Any:
        results = run(self, iterator, step)
        counts.append(sum(result.steps for result in results))
        return results

    monkeypatch.setattr(SeveralSteps, "run", counted)
    return counts


def _model(count: int) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(6, activation="relu", name="hidden"),
            layers.Dropout(0.3, name="dropout"),
            layers.Dense(3, activation="softmax", name="out"),
        ],
        name="net",
    )
    model.compile(
        "adam",
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=count,
    )
    return model


def _data() -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, 5)).astype(np.float32), rng.integers(0, 3, ROWS)


def _fit(count: int, callbacks: list[Any], epochs: int = 3) -> tuple[Any, dict[str, list[float]]]:
    model = _model(count)
    x, y = _data()
    history = model.fit(
        x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks
    )
    return model, history.history


def _tracer(path: Path, **fields: Any) -> Tracer:
    return Tracer(path, on_error="raise", progress=False, **{"capture": "inside", **fields})


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    group = zarr.open_group(path, mode="r")
    return {
        name: np.asarray(array) for name, array in group.members(max_depth=None)
        if isinstance(array, zarr.Array)
    }  # fmt: skip


@pytest.mark.parametrize("count", [2, 4, 32])
def test_the_training_is_the_same_to_the_last_bit(
    tmp_path: Path, count: int, executions: list[int]
) -> None:
    plain, history = _fit(count, [])
    traced, found = _fit(count, [_tracer(tmp_path / "run.zarr")])
    assert found == history
    for left, right in zip(weights_of(plain), weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()
    for left, right in zip(plain.optimizer.variables, traced.optimizer.variables, strict=True):
        assert left.numpy().tobytes() == right.numpy().tobytes()
    # The first execution finds out how large a step is; the last one of an epoch may be smaller.
    sizes = [min(count, BATCHES - first) for first in range(0, BATCHES, count)]
    assert [n for n in executions if n] == (sizes * 3)[1:]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras, also without the tracer
def test_an_epoch_of_unknown_length_ends_where_an_execution_finds_no_batch(
    tmp_path: Path, executions: list[int]
) -> None:
    def run(callbacks: list[Any]) -> Any:
        data = tf.data.Dataset.from_tensor_slices(_data()).batch(8, drop_remainder=True)
        model = _model(3)
        model.fit(
            data.filter(lambda x, y: True), epochs=2, shuffle=False, verbose=0, callbacks=callbacks
        )
        return model

    plain, traced = run([]), run([_tracer(tmp_path / "run.zarr")])
    assert executions[0] == 3
    assert sum(executions) == 9  # the first three of twelve were done one by one
    assert _arrays(tmp_path / "run.zarr")["scalars/step"].tolist() == list(range(12))
    for left, right in zip(weights_of(plain), weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("fields", "is_together"),
    [
        ({}, True),
        ({"precision": {"gradients": "bfloat16", "weights": 7}}, True),
        ({"step_bytes": 3_000}, True),
        ({"statistics_only": ("activations",), "sample_statistics": False}, True),
        ({"samples": 8, "probe_gradients_every": BATCHES}, False),
        ({"total_bytes": 2**30}, False),
        ({"disk_limit": 10**9}, False),
        ({"every": 2}, False),
    ],
    ids=str,
)
def test_what_is_recorded_is_what_single_steps_record(
    tmp_path: Path,
    executions: list[int],
    fields: dict[str, Any],
    is_together: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    several, single = tmp_path / "several.zarr", tmp_path / "single.zarr"
    append, together = JournalWriter.append_rows, []

    def counted(self: JournalWriter, step: int, arrays: Any) -> int:
        together.append((step, len(arrays["scalars/loss"])))
        return append(self, step, arrays)

    monkeypatch.setattr(JournalWriter, "append_rows", counted)
    fields = {"probe_gradients_every": 1000} | fields  # not as the time allows
    _fit(4, [_tracer(several, **fields)])
    assert executions
    # Executions of four whole batches; the last one of an epoch has a smaller batch.
    assert together == ([(7, 4), (14, 4)] if is_together else [])
    monkeypatch.undo()
    _fit(1, [_tracer(single, **fields)])
    assert validate(several) == []
    found, expected = _arrays(several), _arrays(single)
    assert found.keys() == expected.keys()
    assert expected["scalars/step"].tolist() == list(range(0, 3 * BATCHES, fields.get("every", 1)))
    for key, values in expected.items():
        if key not in _TIMES and not key.startswith("statistics/scalars"):
            assert found[key].tobytes() == values.tobytes(), key
    assert (np.diff(found["scalars/wall_time"]) > 0).all()
    assert (found["scalars/step_duration"] > 0).all()
    assert read_attributes(several).missing == read_attributes(single).missing


def test_of_several_steps_those_are_recorded_that_the_policy_wants(
    tmp_path: Path, executions: list[int]
) -> None:
    path = tmp_path / "run.zarr"
    plain, _ = _fit(4, [])
    traced, _ = _fit(4, [_tracer(path, every=5)])
    assert executions
    assert _arrays(path)["scalars/step"].tolist() == [0, 5, 10, 15, 20]
    for left, right in zip(weights_of(plain), weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()


def test_executions_that_are_not_recorded_count_their_steps_after_a_second_compile(
    tmp_path: Path,
) -> None:
    tracer, begun = _tracer(tmp_path / "run.zarr", epochs=(1,)), []
    model, (x, y) = _model(3), _data()
    note = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: begun.append(weights_of(model)))
    settings: dict[str, Any] = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
    for _ in range(2):
        # The new optimizer counts its steps from 0.
        loss = "sparse_categorical_crossentropy"
        model.compile(keras.optimizers.SGD(0.1), loss, steps_per_execution=3)
        model.fit(x, y, callbacks=[tracer, note], **settings)
    arrays = _arrays(tmp_path / "run.zarr")
    firsts = (BATCHES, 3 * BATCHES)
    expected = [first + step for first in firsts for step in range(BATCHES)]
    assert arrays["scalars/step"].tolist() == expected
    steps = arrays["weights/step"].tolist()
    (kernel,) = (
        key
        for key in arrays
        if key.startswith("weights/") and arrays[key].shape[1:] == begun[0][0].shape
    )
    for first, weights in zip(firsts, begun[1::2], strict=True):
        assert arrays[kernel][steps.index(first)].tobytes() == weights[0].tobytes()


def test_several_steps_are_shown_to_leave_what_those_of_keras_leave(
    tmp_path: Path, executions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain, history = _fit(3, [], epochs=4)
    traced, found = _fit(3, [_tracer(tmp_path / "run.zarr", capture="auto")], epochs=4)
    assert found == history
    for left, right in zip(weights_of(plain), weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()
    for left, right in zip(plain.optimizer.variables, traced.optimizer.variables, strict=True):
        assert left.numpy().tobytes() == right.numpy().tobytes()
    # The first execution does single steps, and the second one shows what the others rely on.
    assert executions == [3, 1, *([3, 3, 1] * 3)]
    proofs = read_attributes(tmp_path / "run.zarr").proofs
    assert [(proof.step, proof.identical) for proof in proofs if proof.note] == [(3, True)]
    assert _arrays(tmp_path / "run.zarr")["scalars/step"].tolist() == list(range(4 * BATCHES))
    assert validate(tmp_path / "run.zarr") == []


@pytest.mark.parametrize(("times_as_long", "proved"), [(0, [3, 10, 17, 24]), (1e9, [3])])
def test_executions_are_compared_again_where_the_training_was_left_alone_for_long_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times_as_long: float, proved: list[int]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "PROOF_STEPS", 2 * 3)
    monkeypatch.setattr(proof_times, "TIMES_AS_LONG", times_as_long)
    _fit(3, [_tracer(tmp_path / "run.zarr", capture="auto")], epochs=4)
    proofs = read_attributes(tmp_path / "run.zarr").proofs
    assert [p.step for p in proofs if p.note == "3 steps in one execution"] == proved
    assert all(proof.identical for proof in proofs)


def test_several_steps_that_change_the_training_are_done_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SeveralSteps.run

    def changing(self: SeveralSteps, iterator: Any, step: int) -> Any:
        results = run(self, iterator, step)
        weight = self._traced.program.models[0].trainable_variables[0]
        weight.assign(weight + 1e-6)
        return results

    monkeypatch.setattr(SeveralSteps, "run", changing)
    plain, history = _fit(3, [])
    traced, found = _fit(3, [_tracer(tmp_path / "run.zarr", capture="auto")])
    assert found == history
    for left, right in zip(weights_of(plain), weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()
    (event,) = read_attributes(tmp_path / "run.zarr").events
    assert event.message.startswith("the steps of one execution are done one by one")
    assert "kernel" in event.message
    assert _arrays(tmp_path / "run.zarr")["scalars/step"].tolist() == list(range(3 * BATCHES))


@pytest.mark.parametrize(
    "fields",
    [{"sample_ids": lambda data: np.arange(len(data[1]))}, {"capture": "beside"}],
    ids=["sample_ids", "beside"],
)
def test_where_each_step_needs_python_they_are_done_one_by_one(
    tmp_path: Path, fields: dict[str, Any], executions: list[int]
) -> None:
    plain, _ = _fit(4, [])
    traced, _ = _fit(4, [_tracer(tmp_path / "run.zarr", **fields)])
    assert executions == []
    assert _arrays(tmp_path / "run.zarr")["scalars/step"].tolist() == list(range(3 * BATCHES))
    for left, right in zip(weights_of(plain), weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()


def test_data_that_cannot_be_read_within_an_execution_ends_the_trace_with_that_reason(
    tmp_path: Path, executions: list[int]
) -> None:
    x, y = _data()

    def parse(number: Any) -> Any:
        tf.debugging.assert_less(number, np.int64(10), "a bad file")
        return tf.gather(x, [number]), tf.gather(y, [number])

    data = tf.data.Dataset.range(16).map(parse)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a bad file"):
        _model(4).fit(data, shuffle=False, verbose=0, callbacks=[_tracer(tmp_path / "run.zarr")])
    assert executions == [4]
    found = read_attributes(tmp_path / "run.zarr")
    assert found.status == "incomplete"
    assert "a bad file" in str(found.status_reason)
    # Steps 8 and 9 were done; what they computed is lost with the execution.
    assert found.steps_recorded["scalars"] == 8


@pytest.mark.parametrize("at_once", [True, False])
def test_an_execution_holds_no_more_in_memory_than_its_limit_whole_batches_included(
    tmp_path: Path, executions: list[int], monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    wide = 2000  # the inputs of a batch take more than all that is recorded
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((wide,)), layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=2)
    batch, row = 32 * wide * 4, wide * 4
    limit = 2 * (batch + 10 * row) if at_once else 2 * batch - 1
    monkeypatch.setattr("steptrace_tracer.session.executions.MOST_BYTES", limit)
    tracer = _tracer(tmp_path / "run.zarr", kinds=("weights", "gradients", "inputs"), samples=1)
    x = np.ones((6 * 32, wide), np.float32)
    model.fit(x, x[:, :1], batch_size=32, shuffle=False, verbose=0, callbacks=[tracer])
    assert executions == ([2, 2] if at_once else [])


@pytest.mark.parametrize("fields", [{}, {"windows": ((1000, 1001),)}])
def test_a_network_that_keras_loop_computes_in_another_way_is_not_changed(
    tmp_path: Path, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last bits may depend on whether a step is compiled in a loop, or by itself."""

    def by_itself(*_: Any) -> Any:
        pytest.fail("a step is done by itself, and not in Keras' loop")

    monkeypatch.setattr(traced_fit, "train_on", by_itself)

    def fit(callbacks: list[Any]) -> list[bytes]:
        keras.utils.set_random_seed(7)
        inner = keras.Sequential(
            [keras.Input((6,)), layers.Dense(6, activation="swish"), layers.LayerNormalization()]
        )
        entry = keras.Input((6,))
        out = layers.Dense(3, activation="softmax")(inner(inner(entry)))
        model = keras.Model(entry, out)
        optimizer = keras.optimizers.AdamW(0.01, clipnorm=0.5)
        model.compile(optimizer, "sparse_categorical_crossentropy", steps_per_execution=3)
        rng = np.random.default_rng(3)
        x, y = rng.normal(size=(40, 6)).astype(np.float32), rng.integers(0, 3, 40)
        model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0, callbacks=callbacks)
        return [v.numpy().tobytes() for v in (*model.variables, *model.optimizer.variables)]

    path = tmp_path / "run.zarr"
    assert fit([_tracer(path, capture="auto", **fields)]) == fit([])
    assert validate(path) == []
