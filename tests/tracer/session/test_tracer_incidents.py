"""Steps at which something breaks are kept as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_models import weights_of
from steptrace_analyzer import open_trace
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer, last

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

ROWS = 8


def data(batches: int = 12) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batches * ROWS, 3)).astype(np.float32)
    return x, rng.integers(0, 3, batches * ROWS)


def build(*, eager: bool = False, jit: bool = False, optimizer: str = "adam") -> Any:
    keras.utils.set_random_seed(4)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(5, activation="tanh", name="hidden"),
            layers.Dropout(0.5, name="drop"),
            layers.Dense(3, activation="softmax", name="out"),
        ],
        name="net",
    )
    loss = "sparse_categorical_crossentropy"
    model.compile(optimizer, loss, run_eagerly=eager, jit_compile=jit)
    return model


class Before(keras.callbacks.Callback):  # type: ignore[misc]
    """Notes every variable before each step."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[dict[str, npt.NDArray[Any]]] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        variables = [*self.model.variables, *self.model.optimizer.variables]
        self.values.append({v.path: v.value.numpy().copy() for v in variables})


@pytest.fixture(autouse=True)
def names() -> None:
    """Give the optimizer of each test the same name."""
    keras.utils.clear_session()


def fit(model: Any, x: Any, y: Any, callbacks: list[Any], **fields: Any) -> None:
    model.fit(x, y, batch_size=ROWS, shuffle=False, verbose=0, callbacks=callbacks, **fields)


def tracer(path: Path, **fields: Any) -> Tracer:
    return Tracer(path, on_error="raise", progress=False, **fields)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("way", ["inside", "beside", "eager"])
def test_the_step_whose_loss_is_not_finite_is_kept_with_all_that_came_before_it(
    tmp_path: Path, way: Any
) -> None:
    x, y = data()
    x[5 * ROWS + 6, 1] = np.nan
    weight = np.linspace(0.5, 2.0, len(x)).astype(np.float32)
    capture = "auto" if way == "eager" else way
    before, path = Before(), tmp_path / "run.zarr"
    model = build(eager=way == "eager")
    fit(model, x, y, [before, tracer(path, capture=capture, samples=2)], sample_weight=weight)
    untraced = build(eager=way == "eager")
    fit(untraced, x, y, [], sample_weight=weight)
    for left, right in zip(weights_of(untraced), weights_of(model), strict=True):
        assert left.tobytes() == right.tobytes()
    assert validate(path) == []
    (incident,) = read_attributes(path).incidents
    assert (incident.step, incident.cause) == (5, "loss")
    assert incident.reason == "the loss is nan"
    assert incident.arguments == ("inputs/x", "inputs/y", "inputs/sample_weight")
    kept = open_trace(path)["incidents/5"]
    rows = slice(5 * ROWS, 6 * ROWS)
    np.testing.assert_array_equal(kept["inputs/x"], x[rows])
    np.testing.assert_array_equal(kept["inputs/y"], y[rows])
    np.testing.assert_array_equal(kept["inputs/sample_weight"], weight[rows])
    expected = before.values[5]
    np.testing.assert_array_equal(kept["weights/net/hidden/kernel"], expected["net/hidden/kernel"])
    seeds = next(v for k, v in expected.items() if "seed_generator_state" in k)
    (state,) = [
        a
        for n in kept["state"].subtree
        for k, a in n.data_vars.items()
        if "seed_generator" in str(k)
    ]
    np.testing.assert_array_equal(state, seeds)
    slot = next(v for k, v in expected.items() if k.endswith("hidden_kernel_velocity"))
    np.testing.assert_array_equal(kept["optimizer/net/hidden/kernel/velocity"], slot)
    assert int(kept["state/adam/iteration"]) == 5
    assert np.isnan(kept["gradients/net/out/bias"]).all()
    assert np.isnan(float(kept["scalars/loss"]))


def test_a_crash_keeps_its_batch_and_the_whole_message(tmp_path: Path) -> None:
    x, y = data()
    y[7 * ROWS + 3] = 9
    before, path = Before(), tmp_path / "run.zarr"
    with (
        pytest.raises(tf.errors.InvalidArgumentError),
        tracer(path) as recording,
    ):
        fit(build(), x, y, [before, recording])
    attributes = read_attributes(path)
    assert attributes.status == "incomplete"
    said = "Received a label value of 9 which is outside the valid range of [0, 3)"
    assert said in str(attributes.status_reason)
    (incident,) = attributes.incidents
    assert (incident.step, incident.cause) == (7, "exception")
    assert said in incident.reason
    assert said in str(incident.message)
    assert len(str(incident.message).splitlines()) > 3
    kept = open_trace(path)["incidents/7"]
    np.testing.assert_array_equal(kept["inputs/y"], y[7 * ROWS : 8 * ROWS])
    np.testing.assert_array_equal(
        kept["weights/net/out/kernel"], before.values[7]["net/out/kernel"]
    )
    assert int(kept["state/adam/iteration"]) == 7
    assert [p for p in validate(path) if p.rule != "R16"] == []


def test_a_crash_in_the_first_step_leaves_a_trace_with_it(tmp_path: Path) -> None:
    x, y = data()
    y[3] = 9
    path = tmp_path / "run.zarr"
    with pytest.raises(tf.errors.InvalidArgumentError), tracer(path) as recording:
        fit(build(), x, y, [recording])
    (incident,) = read_attributes(path).incidents
    assert (incident.step, incident.cause) == (0, "exception")
    np.testing.assert_array_equal(open_trace(path)["incidents/0/inputs/x"], x[:ROWS])


def test_an_error_in_a_layer_says_what_happened_and_without_colours(tmp_path: Path) -> None:
    @keras.saving.register_keras_serializable()
    class Refusing(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any, training: bool = False) -> Any:
            return x + tf.ones(7) if training else x

    x, y = data()
    model = keras.Sequential([build(), Refusing()])
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    path = tmp_path / "run.zarr"
    with pytest.raises(Exception, match="shape"), tracer(path) as recording:
        fit(model, x, y, [recording])
    (incident,) = read_attributes(path).incidents
    assert "shapes" in incident.reason
    assert "Exception encountered" in str(incident.message)  # by which layer
    assert "\x1b" not in str(incident.message)


def test_what_the_training_marks_is_kept_with_a_policy_that_keeps_nothing_else(
    tmp_path: Path,
) -> None:
    x, y = data()
    path = tmp_path / "run.zarr"
    recording = tracer(path, kinds=("scalars",))

    class Mark(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 4:
                recording.mark()

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 8:
                recording.mark()

    before = Before()
    fit(build(), x, y, [before, recording, Mark()])
    incidents = read_attributes(path).incidents
    assert [(i.step, i.cause) for i in incidents] == [(4, "mark"), (8, "mark")]
    trace = open_trace(path)
    for step in (4, 8):
        np.testing.assert_array_equal(
            trace[f"incidents/{step}/inputs/x"], x[step * ROWS : (step + 1) * ROWS]
        )
        np.testing.assert_array_equal(
            trace[f"incidents/{step}/weights/net/hidden/bias"],
            before.values[step]["net/hidden/bias"],
        )
    assert validate(path) == []


def test_incidents_are_bounded_in_number_and_bytes(tmp_path: Path) -> None:
    x, y = data(20)

    class MarkAll(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self, recording: Tracer) -> None:
            super().__init__()
            self.recording = recording

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.recording.mark()

    def kept(name: str, **fields: Any) -> Any:
        recording = tracer(tmp_path / name, **fields)
        fit(build(), x, y, [recording, MarkAll(recording)])
        assert validate(tmp_path / name) == []
        return read_attributes(tmp_path / name).incidents

    assert [i.step for i in kept("default.zarr")] == list(range(8))
    assert [i.step for i in kept("three.zarr", incidents=3)] == [0, 1, 2]
    assert kept("none.zarr", incidents=0) == ()
    size = kept("one.zarr", incidents=1)[0].nbytes
    few = kept("bytes.zarr", incident_bytes=3 * size)
    assert 0 < len(few) <= 3
    assert sum(i.nbytes for i in few) <= 3 * size


def test_a_disk_limit_and_a_trace_that_keeps_the_last_steps_hold_with_incidents(
    tmp_path: Path,
) -> None:
    x, y = data(40)
    x[20 * ROWS, 0] = np.inf
    path = tmp_path / "limited.zarr"
    limit = 3_000_000
    fit(build(), x, y, [tracer(path, disk_limit=limit)])
    assert sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) <= limit
    assert [i.step for i in read_attributes(path).incidents] == [20]
    assert validate(path) == []
    path = tmp_path / "last.zarr"
    fit(build(), x, y, [tracer(path, retain=last(5))])
    trace = open_trace(path)
    assert 20 not in trace["weights"].step
    np.testing.assert_array_equal(trace["incidents/20/inputs/x"], x[20 * ROWS : 21 * ROWS])
    assert validate(path) == []


def test_a_custom_loop_keeps_its_arguments_as_they_were(tmp_path: Path) -> None:
    model = build(optimizer="sgd")
    optimizer = model.optimizer

    @tf.function  # type: ignore[untyped-decorator]
    def train_step(x: Any, y: Any, factor: Any) -> Any:
        with tf.GradientTape() as tape:
            found = model(x, training=True)
            loss = factor * tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, found))
        optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
        return loss

    x, y = data()
    buffer = np.empty((ROWS, 3), np.float32)
    with tracer(tmp_path / "run.zarr") as recording:
        step = recording.wrap(train_step)
        for number in range(12):
            buffer[:] = x[number * ROWS : (number + 1) * ROWS]  # one array for all batches
            step(buffer, y[number * ROWS : (number + 1) * ROWS], np.float32(2.0))
            if number == 6:
                recording.mark()
            buffer[:] = -1
    kept = open_trace(tmp_path / "run.zarr")["incidents/6"]
    np.testing.assert_array_equal(kept["inputs/x"], x[6 * ROWS : 7 * ROWS])
    np.testing.assert_array_equal(kept["inputs/y"], y[6 * ROWS : 7 * ROWS])
    (incident,) = read_attributes(tmp_path / "run.zarr").incidents
    assert incident.arguments[:2] == ("inputs/x", "inputs/y")
