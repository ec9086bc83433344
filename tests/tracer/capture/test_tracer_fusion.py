"""What TensorFlow computes in one go stays so, and is recorded all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import zarr
from keras import layers

from keras_models import weights_of
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BATCH = 8


def dense_then_sum(x: Any) -> Any:
    hidden = layers.Dense(6, name="hidden")(x)
    return layers.Add(name="sum")([hidden, layers.Dense(6, activation="tanh", name="other")(x)])


def dense_then_activation(x: Any) -> Any:
    return layers.Activation("tanh", name="activation")(layers.Dense(6, name="hidden")(x))


def dense_without_bias(x: Any) -> Any:
    hidden = layers.Dense(6, use_bias=False, name="hidden")(x)
    return layers.Activation("relu", name="activation")(hidden)


def residual_convolution(x: Any) -> Any:
    image = layers.Reshape((2, 2, 3), name="image")(x)
    first = layers.Conv2D(4, 2, padding="same", name="first")(image)
    second = layers.Conv2D(4, 1, name="second")(image)
    total = layers.ReLU(name="relu")(layers.Add(name="sum")([first, second]))
    return layers.Flatten(name="flat")(total)


BLOCKS = [dense_then_sum, dense_then_activation, dense_without_bias, residual_convolution]


def build(block: Callable[[Any], Any]) -> Any:
    keras.utils.set_random_seed(1)
    x = keras.Input((12,))
    model = keras.Model(x, layers.Dense(2, name="out")(block(x)), name="net")
    model.compile("adam", "mse")
    return model


def fit(model: Any, *callbacks: Any) -> Any:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 12)).astype("f4"), rng.normal(size=(24, 2)).astype("f4")
    model.fit(x, y, batch_size=BATCH, epochs=3, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model


@pytest.mark.sampled(2)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("samples", [2, BATCH])
def test_layers_that_are_computed_together_are_recorded_and_not_changed(
    tmp_path: Path, block: Callable[[Any], Any], samples: int
) -> None:
    tracer = Tracer(tmp_path / "run.zarr", samples=samples, on_error="raise", progress=False)
    traced, untraced = fit(build(block), tracer), fit(build(block))
    for left, right in zip(weights_of(traced), weights_of(untraced), strict=True):
        assert left.tobytes() == right.tobytes()
    trace = zarr.open_group(tmp_path / "run.zarr", mode="r")
    again = build(block)
    outputs = {layer.name: layer.output for layer in again.layers[1:]}
    parts = keras.Model(again.input, outputs)
    for step in range(9):
        for variable in again.weights:
            variable.assign(np.asarray(trace[f"weights/{variable.path}"])[step])
        expected = parts(np.asarray(trace["inputs/x"])[step], training=True)
        for path, values in expected.items():
            found = np.asarray(trace[f"activations/{path}/output"])[step]
            np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6, err_msg=path)
