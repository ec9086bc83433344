"""Custom loops that ask for gradients by other names, in several passes, or sample by sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_schema.names import KINDS
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer
from steptrace_tracer.capture import gradients
from two_layers import TwoLayers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Maker = Callable[[Any, Any], Callable[[Any, Any], Any]]

STEPS, BATCH, RATE = 3, 6, 0.05
RADIUS = 0.1
"""How far sharpness-aware minimisation moves the weights."""


def loss_of(model: Any, x: Any, y: Any) -> Any:
    return tf.reduce_mean(tf.square(model(x, training=True) - y))


def by_values(model: Any, optimizer: Any) -> Callable[[Any, Any], Any]:
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(model, x, y)
        found = tape.gradient(loss, [v.value for v in model.trainable_variables])
        optimizer.apply_gradients(zip(found, model.trainable_variables, strict=True))
        return loss

    return step


def by_watched(model: Any, optimizer: Any) -> Callable[[Any, Any], Any]:
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(model, x, y)
        watched = tape.watched_variables()
        for variable, gradient in zip(watched, tape.gradient(loss, watched), strict=True):
            variable.assign_sub(RATE * gradient)
        optimizer.iterations.assign_add(1)
        return loss

    return step


def by_jacobian(model: Any, optimizer: Any) -> Callable[[Any, Any], Any]:
    """Return a step that differentiates the loss of each sample, and applies the mean."""

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            losses = tf.reduce_mean(tf.square(model(x, training=True) - y), axis=1)
        weights = model.trainable_variables
        found = tape.jacobian(losses, weights)
        optimizer.apply([tf.reduce_mean(part, axis=0) for part in found], weights)
        return tf.reduce_mean(losses)

    return step


def in_two_passes(model: Any, optimizer: Any) -> Callable[[Any, Any], Any]:
    """Return a step of sharpness-aware minimisation (Foret et al. 2021)."""

    def step(x: Any, y: Any) -> Any:
        weights = model.trainable_variables
        with tf.GradientTape() as tape:
            loss = loss_of(model, x, y)
        first = tape.gradient(loss, weights)
        scale = RADIUS / tf.linalg.global_norm(first)
        for weight, gradient in zip(weights, first, strict=True):
            weight.assign_add(scale * gradient)
        with tf.GradientTape() as tape:
            there = loss_of(model, x, y)
        second = tape.gradient(there, weights)
        for weight, gradient in zip(weights, first, strict=True):
            weight.assign_sub(scale * gradient)
        optimizer.apply(second, weights)
        return loss

    return step


def clipped_in_two_passes(model: Any, optimizer: Any) -> Callable[[Any, Any], Any]:
    """Return the step of :func:`in_two_passes`, with what it applies clipped by hand."""

    class Clipping:
        def apply(self, found: Any, weights: Any) -> None:
            optimizer.apply([tf.clip_by_value(g, -0.01, 0.01) for g in found], weights)

    return in_two_passes(model, Clipping())


def train(path: Path | None, maker: Maker, *, compiled: bool) -> Any:
    model, optimizer = mlp(), keras.optimizers.SGD(RATE)
    optimizer.build(model.trainable_variables)
    step: Any = maker(model, optimizer)
    step = tf.function(step) if compiled else step
    x, y = map(tf.constant, vectors(STEPS * BATCH))
    batches = [
        (x[i * BATCH : (i + 1) * BATCH], y[i * BATCH : (i + 1) * BATCH]) for i in range(STEPS)
    ]
    if path is None:
        for batch in batches:
            step(*batch)
        return model
    with Tracer(
        path, kinds=KINDS, probe_gradients_every=1, on_error="raise", progress=False, samples=BATCH
    ) as tracer:
        step = tracer.wrap(step, models=[model], optimizers=[optimizer])
        for batch in batches:
            step(*batch)
    assert validate(path) == []
    return model


def squared_error_slope(y: Any) -> Callable[[Any], Any]:
    return lambda out: 2 * (out - y) / y.size


@pytest.mark.sampled(4)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("maker", [by_values, by_watched, by_jacobian, in_two_passes])
def test_gradients_are_those_that_are_applied_however_they_are_asked_for(
    tmp_path: Path, maker: Maker, compiled: bool
) -> None:
    path = tmp_path / "run.zarr"
    plain, traced = train(None, maker, compiled=compiled), train(path, maker, compiled=compiled)
    for expected, found in zip(weights_of(plain), weights_of(traced), strict=True):
        assert found.tobytes() == expected.tobytes()
    group: Any = zarr.open_group(path, mode="r")
    x, y = vectors(STEPS * BATCH)
    for t in range(STEPS):
        rows = slice(t * BATCH, (t + 1) * BATCH)
        net = TwoLayers(group, t)
        net.agree_outputs(x[rows])
        net.agrees("scalars/loss", float(np.mean((net.forward(x[rows])[1] - y[rows]) ** 2)))
        net.agree_probe()
        if maker is not by_jacobian:
            slope = squared_error_slope(y[rows])(net.forward(x[rows])[1])
            net.agrees("activation_gradients/mlp/out/output", slope)
        if maker in (by_values, by_watched):
            net.agree_gradients(x[rows], squared_error_slope(y[rows]))
    for name in ("hidden/kernel", "hidden/bias", "out/kernel", "out/bias"):
        weights = np.asarray(group[f"weights/mlp/{name}"]).astype(np.float64)
        gradient = np.asarray(group[f"gradients/mlp/{name}"])
        np.testing.assert_allclose(
            gradient, (weights[:-1] - weights[1:]) / RATE, rtol=1e-3, atol=1e-5
        )


def test_of_two_passes_what_the_optimizer_is_given_is_the_gradient(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    train(path, clipped_in_two_passes, compiled=True)
    group: Any = zarr.open_group(path, mode="r")
    weights = np.asarray(group["weights/mlp/hidden/kernel"]).astype(np.float64)
    gradient = np.asarray(group["gradients/mlp/hidden/kernel"])
    assert np.abs(gradient).max() <= np.float32(0.01)
    np.testing.assert_allclose(gradient, (weights[:-1] - weights[1:]) / RATE, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("names", [("image", "label"), ("features", "target"), ("x", "y")])
def test_the_label_of_a_mapping_is_y(tmp_path: Path, names: tuple[str, str]) -> None:
    model, optimizer = mlp(), keras.optimizers.SGD(RATE)

    @tf.function  # type: ignore[untyped-decorator]
    def step(batch: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(model, batch[names[0]], batch[names[1]])
        weights = model.trainable_variables
        optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    x, y = vectors(BATCH)
    path = tmp_path / "run.zarr"
    with Tracer(
        path, kinds=KINDS, probe_gradients_every=1, on_error="raise", progress=False, samples=BATCH
    ) as tracer:
        tracer.wrap(step)({names[1]: tf.constant(y), names[0]: tf.constant(x)})
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    assert np.asarray(group["inputs/y"])[0].tobytes() == y.tobytes()
    net = TwoLayers(group, 0)
    net.agree_outputs(x)
    net.agree_gradients(x, squared_error_slope(y))
    net.agree_probe()


def test_the_label_of_a_mapping_is_y_for_a_model_whose_inputs_have_no_names(tmp_path: Path) -> None:
    class Own(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name="own")
            self.out = keras.layers.Dense(2, name="out")

        def call(self, x: Any) -> Any:
            return self.out(x)

    model, optimizer = Own(), keras.optimizers.SGD(RATE)

    @tf.function  # type: ignore[untyped-decorator]
    def step(batch: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(batch["image"]) - batch["label"]) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    rng = np.random.default_rng(0)
    x, y = rng.random((BATCH, 3), np.float32), rng.random((BATCH, 2), np.float32)
    path = tmp_path / "run.zarr"
    with Tracer(path, on_error="raise", progress=False, samples=BATCH) as tracer:
        traced = tracer.wrap(step)
        for _ in range(2):
            traced({"label": tf.constant(y), "image": tf.constant(x)})
    group: Any = zarr.open_group(path, mode="r")
    assert np.asarray(group["inputs/x"])[-1].tobytes() == x.tobytes()
    assert np.asarray(group["inputs/y"])[-1].tobytes() == y.tobytes()


def test_the_sparse_gradient_of_a_very_large_weight_is_missing_and_never_made_dense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "_SPARSE_LIMIT", 50)
    rows = keras.layers.Embedding(20, 4, name="embedding")
    model = keras.Sequential(
        [keras.Input((2,), dtype="int32"), rows, keras.layers.Flatten()], name="words"
    )
    model.add(keras.layers.Dense(1, name="out"))
    model.compile("sgd", "mse")
    path = tmp_path / "run.zarr"
    x = np.arange(8).reshape(4, 2) % 20
    model.fit(
        x, np.ones((4, 1)), verbose=0, callbacks=[Tracer(path, on_error="raise", progress=False)]
    )
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    assert "gradients/words/embedding/embeddings" not in group
    assert "gradients/words/out/kernel" in group
    missing = {entry["path"]: entry["reason"] for entry in group.attrs["steptrace"]["missing"]}
    assert "very large weight" in missing["words/embedding/embeddings"]
