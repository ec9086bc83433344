"""Tensors that begin to exist in the midst of a run are missing at the steps before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 3


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
