"""Layers that are computed again on the way back, to save memory: their tape is no pass itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr
from numpy.testing import assert_allclose

from keras_models import vectors, weights_of
from steptrace_schema.store.opening import read_attributes
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path


class Block(keras.layers.Layer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name="block")
        self.inner = keras.layers.Dense(3, activation="tanh", name="inner")

    def build(self, shape: Any) -> None:
        self.inner.build(shape)
        self.built = True

    def call(self, x: Any) -> Any:
        return tf.recompute_grad(lambda value: value + self.inner(value))(x)


def net(**keywords: Any) -> Any:
    keras.utils.set_random_seed(3)
    last = keras.layers.Dense(2, name="out")
    model = keras.Sequential([keras.Input((3,)), Block(), last], name="net")
    model.compile(keras.optimizers.SGD(0.1), "mse", **keywords)
    return model


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
def test_the_loss_and_gradients_of_what_is_computed_again_are_those_of_the_step(
    tmp_path: Path, eager: bool
) -> None:
    x, y = vectors(32)
    keywords = {"batch_size": 8, "shuffle": False, "verbose": 0}
    path, plain, model = tmp_path / "run.zarr", net(run_eagerly=eager), net(run_eagerly=eager)
    plain.fit(x, y, **keywords)
    tracer = Tracer(path, on_error="raise", progress=False)
    model.fit(x, y, callbacks=[tracer], **keywords)
    for left, right in zip(weights_of(plain), weights_of(model), strict=True):
        assert left.tobytes() == right.tobytes()
    group: Any = zarr.open_group(path, mode="r")
    other = net()
    weights = [np.asarray(group[f"weights/{v.path}"]) for v in other.weights]
    for step in range(4):
        other.set_weights([each[step] for each in weights])
        rows = slice(8 * step, 8 * step + 8)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(other(x[rows]) - y[rows]))
        assert_allclose(group["scalars/loss"][step], loss, rtol=1e-6)
        for variable, gradient in zip(
            other.trainable_variables, tape.gradient(loss, other.trainable_variables), strict=True
        ):
            found = group[f"gradients/{variable.path}"][step]
            assert_allclose(found, gradient, rtol=1e-5, atol=1e-7)
    missing = {(m.kind, m.path): m.reason for m in read_attributes(path).missing}
    reason = missing["activation_gradients", "net/block/inner/output"]
    assert "computed again on the way back" in reason
    assert not [path for _, path in missing if "call1" in path]
