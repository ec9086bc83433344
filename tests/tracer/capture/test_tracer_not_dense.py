"""Batches that are no dense tensors of numbers: what is known of their samples is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr
from keras import layers

from keras_models import weights_of
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path

BATCH, STEPS = 6, 4
_RANDOM = np.random.default_rng(0)
_WORDS = [_RANDOM.integers(1, 9, size=n % 4 + 1).tolist() for n in range(BATCH * STEPS)]
_FEW = np.where(_RANDOM.random((BATCH * STEPS, 8)) > 0.7, 1.0, 0.0).astype(np.float32)
_Y = _RANDOM.normal(size=(BATCH * STEPS, 1)).astype(np.float32)


class Mean(keras.Model):  # type: ignore[misc]
    """A mean of words, each of which is a row of the embedding's output."""

    def __init__(self) -> None:
        super().__init__(name="net")
        self.embedding = layers.Embedding(9, 4, name="embedding")
        self.out = layers.Dense(1, "tanh", name="out")

    def call(self, x: Any) -> Any:
        return self.out(tf.reduce_mean(tf.ragged.map_flat_values(self.embedding, x), axis=1))


def network(kind: str, **compiled: Any) -> Any:
    keras.utils.set_random_seed(3)
    model: Any = Mean()
    if kind == "sparse":
        out = layers.Dense(1, "tanh", name="out")
        model = keras.Sequential([keras.Input((8,), sparse=True), out], name="net")
    model.compile("sgd", "mse", **compiled)
    return model


def data_of(kind: str) -> Any:
    x = tf.ragged.constant(_WORDS) if kind == "ragged" else tf.sparse.from_dense(_FEW)
    return tf.data.Dataset.from_tensor_slices((x, _Y)).batch(BATCH)


@pytest.mark.parametrize("settings", [{}, {"steps_per_execution": 2}], ids=["one", "several"])
@pytest.mark.parametrize("kind", ["ragged", "sparse"])
def test_samples_of_a_batch_that_is_not_dense_are_counted(
    tmp_path: Path, kind: str, settings: Any
) -> None:
    def run(*callbacks: Any) -> Any:
        model = network(kind, **settings)
        model.fit(data_of(kind), shuffle=False, verbose=0, callbacks=[*callbacks])
        return weights_of(model)

    path = tmp_path / "run.zarr"
    traced = run(Tracer(path, samples=3, on_error="raise", progress=False))
    for one, other in zip(traced, run(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    assert np.asarray(group["scalars/batch_size"]).tolist() == [BATCH] * STEPS
    output = group["activations/net/out/output"]
    preactivation = group["probe/net/out/preactivation"]
    batches = [*data_of(kind)]
    for step in range(STEPS):
        model = network(kind)
        model(batches[0][0])  # which builds it
        for weight in model.weights:
            weight.assign(group["weights/net/" + "/".join(weight.path.split("/")[-2:])][step])
        whole = np.asarray(model(batches[step][0]))
        np.testing.assert_allclose(output[step], whole[:3], rtol=1e-5, atol=1e-7)
        squares = (whole - _Y[step * BATCH : (step + 1) * BATCH])[:, 0] ** 2
        np.testing.assert_allclose(group["inputs/sample_loss"][step], squares, rtol=1e-4, atol=1e-7)
        probed = np.arctanh(np.asarray(model(batches[0][0])[:3], np.float64))
        np.testing.assert_allclose(preactivation[step], probed, rtol=1e-4, atol=1e-6)
    said = {f"{m.kind}/{m.path}": m.reason for m in read_attributes(path).missing}
    assert said["inputs/x"] == said["inputs/x_gradient"] == "it is not a dense tensor of numbers"
    if kind == "ragged":
        assert "first dimension" in said["activations/net/embedding/output"]


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
def test_a_loop_over_sparse_batches_is_recorded(tmp_path: Path, eager: bool) -> None:
    def run(tracer: Any = None) -> Any:
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((8,)), layers.Dense(1, name="out")], name="net")
        optimizer = keras.optimizers.SGD(0.1)

        def train_step(x: Any, y: Any) -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(tf.sparse.to_dense(x)) - y) ** 2)
            weights = model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

        step: Any = train_step if eager else tf.function(train_step)
        step = step if tracer is None else tracer.wrap(step)
        for x, y in data_of("sparse"):
            step(x, y)
        return weights_of(model)

    path = tmp_path / "run.zarr"
    with Tracer(path, on_error="raise", progress=False) as tracer:
        traced = run(tracer)
    for one, other in zip(traced, run(), strict=True):
        np.testing.assert_array_equal(one, other)
    group: Any = zarr.open_group(path, mode="r")
    assert np.asarray(group["scalars/batch_size"]).tolist() == [BATCH] * STEPS
    kernel, bias = (np.asarray(group[f"weights/net/out/{name}"]) for name in ("kernel", "bias"))
    for step in range(STEPS):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        error = _FEW[rows] @ kernel[step] + bias[step] - _Y[rows]
        gradient = 2 * _FEW[rows].T @ error / BATCH
        np.testing.assert_allclose(
            group["gradients/net/out/kernel"][step], gradient, rtol=1e-4, atol=1e-6
        )
