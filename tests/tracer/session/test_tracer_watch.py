"""A training that is watched while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_models import weights_of
from steptrace_analyzer import open_trace
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import LiveFinding, Tracer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

ROWS, BAD = 8, 5


def data() -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return twelve batches, of which number 5 has a value that is not finite."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12 * ROWS, 3)).astype(np.float32)
    x[BAD * ROWS + 6, 1] = np.nan
    return x, rng.normal(size=(12 * ROWS, 1)).astype(np.float32)


def build() -> Any:
    keras.utils.clear_session()
    keras.utils.set_random_seed(4)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(5, "tanh", name="hidden"),
            keras.layers.Dense(1, name="out"),
        ],
        name="net",
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def fit(callbacks: list[Any]) -> Any:
    model, (x, y) = build(), data()
    model.fit(x, y, ROWS, 2, shuffle=False, verbose=0, callbacks=callbacks)
    return model


def watching(path: Path, on_finding: Any, **fields: Any) -> Tracer:
    fields = {"watch": ("non_finite",), "capture": "inside", "samples": 2, **fields}
    return Tracer(path, on_error="raise", progress=False, on_finding=on_finding, **fields)


class StopAt(keras.callbacks.Callback):  # type: ignore[misc]
    """Stops as a user would."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop after the batch that is not finite."""
        if batch == BAD:
            self.model.stop_training = True


def assert_same(left: Any, right: Any) -> None:
    for one, other in zip(weights_of(left), weights_of(right), strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_stop_ends_fit_as_keras_does_and_is_an_event(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    tracer = watching(path, "stop", incidents=0)
    assert_same(fit([tracer]), fit([StopAt()]))
    assert tracer.stopped == LiveFinding("non_finite", BAD, "the loss is nan")
    assert validate(path) == []
    attributes = read_attributes(path)
    assert attributes.status == "complete"
    (said,) = [event for event in attributes.events if "stopped" in event.message]
    assert said.step == BAD
    trace = open_trace(path)
    assert trace["scalars"].sizes["step"] == BAD + 1
    assert trace["weights"].sizes["step"] == BAD + 2
    assert attributes.incidents == ()


def test_a_function_is_called_between_steps_and_may_end_the_training(tmp_path: Path) -> None:
    seen: list[tuple[LiveFinding, int]] = []

    def note(found: LiveFinding) -> None:
        seen.append((found, int(tracer.model.optimizer.iterations)))

    tracer = watching(tmp_path / "run.zarr", note)
    assert_same(fit([tracer]), fit([]))
    # The weights are not finite from there on, which is told once.
    assert seen == [(LiveFinding("non_finite", BAD, "the loss is nan"), BAD + 1)]
    assert [i.step for i in read_attributes(tmp_path / "run.zarr").incidents] == [BAD]

    def refuse(found: LiveFinding) -> None:
        raise FloatingPointError(found.explanation)

    with pytest.raises(FloatingPointError, match="the loss is nan"):
        fit([watching(tmp_path / "raised.zarr", refuse)])


def test_a_custom_loop_is_marked_or_asks_whether_to_stop(tmp_path: Path) -> None:
    def loop(tracer: Tracer) -> int:
        model, (x, y) = build(), data()
        optimizer = model.optimizer

        @tf.function  # type: ignore[untyped-decorator]
        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            optimizer.apply(
                tape.gradient(loss, model.trainable_variables), model.trainable_variables
            )
            return loss

        with tracer:
            traced: Callable[..., Any] = tracer.wrap(step, models=[model], optimizers=[optimizer])
            for number, start in enumerate(range(0, len(x), ROWS)):
                traced(*(tf.constant(a[start : start + ROWS]) for a in (x, y)))
                if tracer.stopped:
                    return number
        return -1

    assert loop(watching(tmp_path / "marked.zarr", "mark")) == -1
    mark = open_trace(tmp_path / "marked.zarr")["logged/mark"].dropna("step")
    assert mark.coords["step"].values.tolist() == [BAD]
    assert loop(watching(tmp_path / "stopped.zarr", "stop")) == BAD


def test_processes_that_train_together_are_not_stopped_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="would not all stop at the same step"):
        watching(tmp_path / "run.zarr", "stop")
    watching(tmp_path / "run.zarr", "warn")
