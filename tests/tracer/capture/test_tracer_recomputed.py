"""Layers whose outputs the backward pass computes once more, to save memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr
from keras import layers, ops

from keras_models import vectors, weights_of
from steptrace_schema.names import KINDS
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path

BATCH, STEPS = 8, 3


def _close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


class _Scaled(layers.Layer):  # type: ignore[misc]
    def __init__(self, way: str) -> None:
        super().__init__(name="scaled")
        self.way = way
        self.inner = layers.Dense(4, activation="tanh", name="inner")

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
        self.inner.build(shape)

    def call(self, x: Any) -> Any:
        def compute(v: Any) -> Any:
            return self.inner(ops.tanh(v) * self.scale)

        if self.way == "plain":
            return compute(x)
        return (keras.remat if self.way == "remat" else tf.recompute_grad)(compute)(x)


def _model(way: str, mode: str) -> Any:
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(3, name="first"),
            _Scaled(way),
            layers.Dense(2, name="out"),
        ],
        name="mlp",
    )
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=mode == "eager")
    return model


@pytest.mark.parametrize("mode", ["compiled", "eager"])
@pytest.mark.parametrize("way", ["remat", "recompute_grad"])
def test_the_second_computation_is_no_loss_and_no_call(tmp_path: Path, way: str, mode: str) -> None:
    x, y = vectors(BATCH * STEPS)
    plain, model, path = _model(way, mode), _model(way, mode), tmp_path / "run.zarr"
    tracer = Tracer(path, kinds=KINDS, samples=BATCH, on_error="raise", progress=False)
    for one, callbacks in ((plain, []), (model, [tracer])):
        one.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=callbacks)
    for expected, found in zip(weights_of(plain), weights_of(model), strict=True):
        assert found.tobytes() == expected.tobytes()
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    other = _model("plain", mode)
    for t in range(STEPS):
        for variable in other.weights:
            variable.assign(np.asarray(group[f"weights/{variable.path}"][t]))
        rows = slice(t * BATCH, (t + 1) * BATCH)
        with tf.GradientTape() as tape:
            first = other.layers[0](x[rows])
            scaled = other.layers[1](first)
            loss = tf.reduce_mean(tf.square(other.layers[2](scaled) - y[rows]))
        weights = [variable.value for variable in other.weights]
        slopes = tape.gradient(loss, [*weights, first, scaled])
        _close(group["scalars/loss"][t], loss)
        for variable, slope in zip(other.weights, slopes, strict=False):
            _close(group[f"gradients/{variable.path}"][t], slope)
        for name, output, slope in (
            ("first", first, slopes[-2]),
            ("scaled", scaled, slopes[-1]),
        ):
            own = f"activations/mlp/{name}/output"
            _close(group[own][t], output)
            own = f"activation_gradients/mlp/{name}/output"
            _close(group[own][t], slope)
    assert "scalars/losses" not in group
    assert not [key for key, _ in group.members(max_depth=None) if "call1" in key]
