"""Two trainings in two threads, each with its own tracer."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer
from steptrace_tracer.capture.rebinding import rebound

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS, BATCH = 48, 8


def build(how: str, rate: float) -> Any:
    """Return a network; seeds are of the process, so that no thread builds one."""
    keras.utils.clear_session()
    return mlp("eager" if how == "eager" else "compiled", rate)


def train(how: str, model: Any, rate: float, path: Path | None, wait: Callable[[], object]) -> Any:
    """Train a network, and meet the other thread before every step."""
    x, y = vectors(ROWS)
    tracer = None if path is None else Tracer(path, on_error="raise", progress=False)

    class Meet(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            wait()

    if how in ("compiled", "eager"):
        callbacks = [Meet()] if tracer is None else [tracer, Meet()]
        model.fit(x, y, BATCH, shuffle=False, verbose=0, callbacks=callbacks)
        return model
    optimizer = keras.optimizers.SGD(rate)

    def of_tape(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        weights = model.trainable_variables
        optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    def on_batch(x: Any, y: Any) -> Any:
        wait()
        return model.train_on_batch(x, y)

    step: Any = {"loop": of_tape, "function": tf.function(of_tape), "on_batch": on_batch}[how]
    if tracer is not None:
        step = tracer.wrap(step)
    for begin in range(0, ROWS, BATCH):
        wait()
        step(tf.constant(x[begin : begin + BATCH]), tf.constant(y[begin : begin + BATCH]))
    if tracer is not None:
        tracer.close()
    return model


@pytest.mark.sampled(1)
@pytest.mark.parametrize("how", ["compiled", "eager", "loop", "function", "on_batch"])
def test_two_trainings_in_two_threads_are_each_recorded_as_alone(tmp_path: Path, how: str) -> None:
    patched = [
        *((tf.GradientTape, n) for n in ("gradient", "jacobian", "__enter__", "__exit__")),
        (keras.losses.Loss, "__call__"),
        (keras.Model, "make_train_function"),
        (type(tf.Variable(0.0)), "assign_add"),
    ]
    before = [getattr(owner, name) for owner, name in patched]
    rates = (0.1, 0.02)
    expected = [
        weights_of(train(how, build(how, rate), rate, None, lambda: None)) for rate in rates
    ]
    made = [build(how, rate) for rate in rates]
    barrier, errors = threading.Barrier(2, timeout=60), []

    def run(number: int, rate: float) -> None:
        try:
            train(how, made[number], rate, tmp_path / f"{number}.zarr", barrier.wait)
        except BaseException as error:
            barrier.abort()
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(rates)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [getattr(owner, name) for owner, name in patched] == before
    for number, weights in enumerate(expected):
        found = weights_of(made[number])
        assert [w.tobytes() for w in found] == [w.tobytes() for w in weights]
        path = tmp_path / f"{number}.zarr"
        assert validate(path) == []
        group: Any = zarr.open_group(path, mode="r")
        assert np.asarray(group["scalars/step"]).tolist() == [*range(ROWS // BATCH)]
        kernel = np.asarray(group["weights/mlp/out/kernel"]).astype(np.float64)
        gradient = np.asarray(group["gradients/mlp/out/kernel"])
        np.testing.assert_allclose(
            gradient, (kernel[:-1] - kernel[1:]) / rates[number], rtol=1e-3, atol=1e-5
        )
        assert kernel[-1].astype(np.float32).tobytes() == found[2].tobytes()


def test_an_attribute_that_several_stand_in_for_is_given_back_in_whatever_order_they_end() -> None:
    class Owner:
        def name(self) -> str:
            return "owner"

    def adding(word: str) -> Callable[[Any], Any]:
        def wrap(call: Any) -> Any:
            return lambda self: f"{word} {call(self)}"

        return wrap

    original = Owner.name
    first, second = rebound(Owner, "name", adding("one")), rebound(Owner, "name", adding("two"))
    first.__enter__()
    second.__enter__()
    assert Owner().name() == "two one owner"
    first.__exit__(None, None, None)
    assert Owner().name() == "two owner"
    second.__exit__(None, None, None)
    assert Owner.name is original
    instance: Any = Owner()
    with rebound(instance, "name", lambda _: lambda: "mine"):
        assert instance.name() == "mine"
    assert vars(instance) == {}
