"""Steps that TensorFlow compiles several times: once for each value of a Python argument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
import zarr

from keras_models import vectors, weights_of
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 6


class Alternating:
    """Trains one of two models, as a flag says; the second one on the batch and its negative."""

    def __init__(self) -> None:
        keras.utils.set_random_seed(7)
        self.one, self.other = (
            keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")], name=name)
            for name in ("one", "other")
        )
        self.optimizer = keras.optimizers.SGD(0.1)
        self.optimizer.build([*self.one.trainable_variables, *self.other.trainable_variables])

    @tf.function  # type: ignore[untyped-decorator]
    def step(self, x: Any, y: Any, first: bool) -> Any:
        with tf.GradientTape() as tape:
            if first:
                weights = self.one.trainable_variables
                loss = tf.reduce_mean((self.one(x) - y) ** 2)
            else:
                weights = self.other.trainable_variables
                loss = tf.reduce_sum(self.other(tf.concat([x, -x], 0)) ** 2)
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    def train(self, path: Path | None) -> list[Any]:
        x, y = map(tf.constant, vectors(STEPS * 8))
        step: Any = self.step
        if path is not None:
            tracer = Tracer(path, on_error="raise", progress=False, samples=8)
            step = tracer.wrap(self.step)
        for t in range(STEPS):
            rows = slice(8 * t, 8 * t + 8)
            step(x[rows], y[rows], t % 2 == 0)
        if path is not None:
            tracer.close()
        return weights_of(self.one) + weights_of(self.other)


def test_each_step_of_an_alternating_flag_records_what_its_own_function_computes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run.zarr"
    plain, traced = Alternating().train(None), Alternating().train(path)
    for expected, found in zip(plain, traced, strict=True):
        assert found.tobytes() == expected.tobytes()
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    x, y = vectors(STEPS * 8)
    outputs = np.asarray(group["activations/one/d/output"])
    assert np.asarray(group["activations/step"]).tolist() == [0, 2, 4]
    for t in range(STEPS):
        batch, target = x[8 * t : 8 * t + 8], y[8 * t : 8 * t + 8]
        kernel, bias = (
            np.asarray(group[f"weights/{'other' if t % 2 else 'one'}/d/{name}"])[t]
            for name in ("kernel", "bias")
        )
        gradient = np.asarray(group[f"gradients/{'other' if t % 2 else 'one'}/d/kernel"])[t]
        silent = np.asarray(group[f"gradients/{'one' if t % 2 else 'other'}/d/kernel"])[t]
        assert np.isnan(silent).all()
        if t % 2 == 0:
            out = batch @ kernel + bias
            np.testing.assert_allclose(outputs[t // 2], out, rtol=1e-5, atol=1e-6)
            slope = 2 * (out - target) / target.size
            np.testing.assert_allclose(gradient, batch.T @ slope, rtol=1e-4, atol=1e-6)
        else:
            both = np.concatenate([batch, -batch])
            slope = 2 * (both @ kernel + bias)
            np.testing.assert_allclose(gradient, both.T @ slope, rtol=1e-4, atol=1e-5)
    # The second model is called with twice the rows of the batch, whichever step is looked at.
    assert "activations/other" not in group
    missing = {
        (entry["kind"], entry["path"]): entry for entry in group.attrs["steptrace"]["missing"]
    }
    assert "samples of the batch" in missing["activations", "other/d/output"]["reason"]
    assert missing["gradients", "one/d/kernel"]["steps"] == [1, 3, 5]
    assert missing["gradients", "other/d/kernel"]["steps"] == [0, 2, 4]
