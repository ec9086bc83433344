"""Tensors that begin to exist in the midst of a run are missing at the steps before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_analyzer import diagnose, explain_update
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 3


class WithAux(keras.Model):  # type: ignore[misc]
    """Two layers, and another one that only some steps train."""

    def __init__(self) -> None:
        super().__init__(name="two")
        self.hidden = keras.layers.Dense(4, activation="tanh", name="hidden")
        self.out = keras.layers.Dense(2, name="out")
        self.extra = keras.layers.Dense(2, name="extra")

    def build(self, input_shape: Any) -> None:
        self.hidden.build(input_shape)
        self.out.build((None, 4))
        self.extra.build((None, 4))

    def call(self, x: Any, extra: bool = True) -> Any:
        hidden = self.hidden(x)
        return [self.out(hidden), *([self.extra(hidden)] if extra else [])]


def fit_with_lora(callbacks: list[Any]) -> Any:
    """Train, add low-rank weights to a layer (Hu et al. 2021), and train these."""
    model, (x, y) = mlp(), vectors(STEPS * 8)
    settings: dict[str, Any] = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model.fit(x, y, callbacks=callbacks, **settings)
    model.get_layer("hidden").enable_lora(rank=2)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(x, y, callbacks=callbacks, **settings)
    return model


def test_weights_that_are_added_between_fits_are_missing_before(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    plain = fit_with_lora([])
    model = fit_with_lora([Tracer(path, on_error="raise", progress=False)])
    # Keras draws the new weights without a seed of its own; their shapes and zeros are the same.
    assert [w.shape for w in weights_of(plain)] == [w.shape for w in weights_of(model)]
    assert validate(path) == []
    missing = {(m.kind, m.path): m for m in read_attributes(path).missing}
    before = tuple(range(STEPS))
    for kind in ("weights", "gradients"):
        for name in ("lora_kernel_a", "lora_kernel_b"):
            entry = missing[kind, f"mlp/hidden/{name}"]
            assert entry.steps is not None
            assert set(before) <= set(entry.steps)
            assert "later step" in entry.reason
    group: Any = zarr.open_group(path, mode="r")
    weights = np.asarray(group["weights/mlp/hidden/lora_kernel_b"])
    gradients = np.asarray(group["gradients/mlp/hidden/lora_kernel_b"])
    assert np.isnan(weights[:STEPS]).all()
    np.testing.assert_allclose(
        gradients[STEPS:], (weights[STEPS:-1] - weights[STEPS + 1 :]) / 0.1, rtol=1e-3, atol=1e-5
    )


def train_extra(path: Path | None) -> Any:
    """Train the other layer at steps 3 to 8 of 12 only, in a compiled step."""
    keras.utils.set_random_seed(1)
    model = WithAux()
    model.build((None, 3))
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build(model.trainable_variables)
    x, y = (tf.constant(values) for values in vectors(8))

    @tf.function  # type: ignore[untyped-decorator]
    def step(x: Any, y: Any, extra: bool) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_mean((y - out) ** 2) for out in model(x, extra=extra)])
        layers = (model.hidden, model.out, *([model.extra] if extra else []))
        weights = [weight for layer in layers for weight in layer.trainable_variables]
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    if path is None:
        for number in range(12):
            step(x, y, 3 <= number < 9)
        return model
    with Tracer(path, on_error="raise", progress=False) as tracer:
        wrapped = tracer.wrap(step)
        for number in range(12):
            wrapped(x, y, 3 <= number < 9)
    return model


def test_what_begins_and_ends_in_mid_run_is_missing_elsewhere_and_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    plain, model = train_extra(None), train_extra(path)
    for one, other in zip(weights_of(plain), weights_of(model), strict=True):
        assert one.tobytes() == other.tobytes()
    assert validate(path) == []
    entries = [m for m in read_attributes(path).missing if "extra" in m.path]
    by_tensor: dict[Any, set[int]] = {}
    for entry in entries:
        assert entry.steps is not None
        assert "not called" in entry.reason or "differentiates no loss" in entry.reason
        by_tensor.setdefault((entry.kind, entry.path), set()).update(entry.steps)
    assert by_tensor == {
        (kind, f"two/extra/{name}"): {0, 1, 2, 9, 10, 11}
        for kind, name in (
            ("activations", "output"),
            ("activation_gradients", "output"),
            ("gradients", "kernel"),
            ("gradients", "bias"),
        )
    }
    # No rule takes the rows without a value for NaN, and the optimizer's formula goes on.
    assert [f for f in diagnose(path).findings if f.rule in ("outside", "non_finite")] == []
    weights = np.asarray(zarr.open_group(path, mode="r")["weights/two/extra/kernel"])
    assert (weights[:4] == weights[0]).all()
    assert (weights[9:] == weights[9]).all()
    explained = explain_update(path, 5, "two/extra/kernel")
    assert explained.outside == 0
    assert "not recorded" in str(explain_update(path, 10, "two/extra/kernel").reason)


def test_the_gradients_of_a_layer_that_is_frozen_between_fits_end_there(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    model, (x, y) = mlp(), vectors(STEPS * 8)
    settings: dict[str, Any] = {
        "batch_size": 8,
        "shuffle": False,
        "verbose": 0,
        "callbacks": [Tracer(path, on_error="raise", progress=False)],
    }
    model.fit(x, y, **settings)
    model.get_layer("hidden").trainable = False
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(x, y, **settings)
    assert validate(path) == []
    missing = {(m.kind, m.path): (m.steps, m.reason) for m in read_attributes(path).missing}
    why = "the weight is not trainable at this step"
    assert missing == {
        ("gradients", f"mlp/hidden/{name}"): ((3, 4, 5), why) for name in ("kernel", "bias")
    }
    assert [f for f in diagnose(path).findings if f.severity != "info"] == []
