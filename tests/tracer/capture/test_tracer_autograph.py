"""Steps whose Python TensorFlow rewrites: what it calls by itself is what stands in for methods."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RATE = 0.1
STEPS = 4
NAMES = ("hidden/kernel", "hidden/bias", "out/kernel", "out/bias")


class Halving(keras.optimizers.SGD):  # type: ignore[misc]
    """Decides by a tensor what it does, as only rewritten Python can in a compiled step."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        grads = list(grads)
        if tf.reduce_sum(grads[0]) > 0:
            grads = [gradient / 2 for gradient in grads]
        return super().apply(grads, trainable_variables)


def by_apply(optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
    optimizer.apply(gradients, variables)


def by_hand(_: Any, gradients: list[Any], variables: list[Any]) -> None:
    for gradient, variable in zip(gradients, variables, strict=True):
        variable.value.assign_sub(RATE * gradient)


def scaled(optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
    scale = optimizer.scale_loss(tf.ones(()))
    optimizer.apply([gradient * scale for gradient in gradients], variables)


OPTIMIZERS: dict[str, Any] = {
    "own": lambda: Halving(RATE),
    "of Keras": lambda: keras.optimizers.SGD(RATE),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE), 2.0**4),
}


@pytest.fixture(name="said")
def _said() -> Iterator[list[str]]:
    """Collect what TensorFlow says."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("tensorflow")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def train(path: Path | None, optimizer: Any, apply: Any, *, compiled: bool) -> tuple[Any, Any]:
    """Return the model, and the gradients of each step as a tape of its own has them."""
    model = mlp()
    x, y = (tf.constant(values) for values in vectors(8 * STEPS))
    expected: list[list[Any]] = []

    def gradients_of(x: Any, y: Any) -> list[Any]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        found: list[Any] = tape.gradient(loss, model.trainable_variables)
        return found

    def step(x: Any, y: Any) -> None:
        apply(optimizer, gradients_of(x, y), model.trainable_variables)

    function = tf.function(step) if compiled else step
    tracer = None if path is None else Tracer(path, on_error="raise", progress=False)
    if tracer is not None:
        function = tracer.wrap(function, models=[model], optimizers=[optimizer])
    for start in range(0, 8 * STEPS, 8):
        batch = x[start : start + 8], y[start : start + 8]
        expected.append([gradient.numpy() for gradient in gradients_of(*batch)])
        function(*batch)
    if tracer is not None:
        tracer.close()
    return model, expected


@pytest.mark.sampled(4)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "eager"])
@pytest.mark.parametrize(
    ("name", "apply"),
    [("own", by_apply), ("of Keras", by_apply), ("of Keras", by_hand), ("scaled", scaled)],
)
def test_a_step_may_call_its_optimizer_itself(
    tmp_path: Path, name: str, apply: Any, compiled: bool, said: list[str]
) -> None:
    plain, _ = train(None, OPTIMIZERS[name](), apply, compiled=compiled)
    before = len(said)
    path = tmp_path / "run.zarr"
    traced, expected = train(path, OPTIMIZERS[name](), apply, compiled=compiled)
    assert said[before:] == []
    for left, right in zip(weights_of(plain), weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()
    group: Any = zarr.open_group(path, mode="r")
    for number, key in enumerate(NAMES):
        found = np.asarray(group[f"gradients/mlp/{key}"])
        rows = [gradients[number] for gradients in expected]
        np.testing.assert_allclose(found, rows, rtol=1e-5, atol=1e-7)


class Gate(keras.layers.Layer):  # type: ignore[misc]
    """Decides by a tensor what it gives, as only rewritten Python can in a compiled step."""

    def call(self, x: Any) -> Any:
        if tf.reduce_sum(x) > 1e9:
            return -x
        return x


class Decorated(keras.Model):  # type: ignore[misc]
    """Compiles its own step, which Keras compiles once more."""

    def __init__(self) -> None:
        super().__init__(name="decorated")
        keras.utils.set_random_seed(3)
        hidden = keras.layers.Dense(4, "tanh", name="hidden")
        out = keras.layers.Dense(2, name="out")
        self.inner = keras.Sequential([keras.Input((3,)), hidden, out], name="inner")
        self.gate = Gate(name="gate")
        self.gate.built = True

    def call(self, x: Any) -> Any:
        return self.inner(x)

    @tf.function  # type: ignore[untyped-decorator]
    def train_step(self, data: Any) -> Any:
        x, y = data
        x = self.gate.call(x + tf.random.normal(tf.shape(x)))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
        weights = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"error": loss}


def test_fit_records_a_train_step_that_is_a_function_of_tensorflow(
    tmp_path: Path, said: list[str]
) -> None:
    def fit(callbacks: list[Any]) -> Any:
        model = Decorated()
        model.compile(keras.optimizers.SGD(0.5))
        x, y = vectors(8 * STEPS)
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
        return model

    plain = fit([])
    before = len(said)
    path = tmp_path / "run.zarr"
    traced = fit([Tracer(path, on_error="raise", progress=False)])
    assert said[before:] == []
    for left, right in zip(weights_of(plain), weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()
    group: Any = zarr.open_group(path, mode="r")
    weights, gradients = (
        np.asarray(group[f"{kind}/inner/hidden/kernel"]) for kind in ("weights", "gradients")
    )
    # SGD: the update is minus the rate times the gradient; 0.5 makes the product exact.
    assert len(gradients) == STEPS
    assert (weights[1:] == weights[:-1] - np.float32(0.5) * gradients).all()


def test_a_wrapped_step_inside_of_a_compiled_loop_is_rewritten_as_without_the_tracer(
    tmp_path: Path, said: list[str]
) -> None:
    x, y = (tf.constant(values) for values in vectors(8))

    def train(path: Path | None) -> list[Any]:
        model = mlp()

        def step() -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
            if loss > 0:  # a tensor: only rewritten Python can decide by it
                gradients = tape.gradient(loss, model.trainable_variables)
                model.optimizer.apply(gradients, model.trainable_variables)

        tracer = None if path is None else Tracer(path, progress=False)
        run = step if tracer is None else tracer.wrap(step)

        @tf.function  # type: ignore[untyped-decorator]
        def loop() -> None:
            for _ in tf.range(STEPS):
                run()

        model.optimizer.build(model.trainable_variables)
        loop()
        if tracer is not None:
            tracer.close()
        return weights_of(model)

    expected = train(None)
    with pytest.warns(RuntimeWarning, match="called while another function is compiled"):
        found = train(tmp_path / "run.zarr")
    for left, right in zip(expected, found, strict=True):
        assert left.tobytes() == right.tobytes()
    assert said == []
