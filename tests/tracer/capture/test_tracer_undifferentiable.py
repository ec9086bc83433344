"""Operations before the first weights that have no gradient, which a training never asks for."""

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

    from steptrace_tracer.capture.proven_step import Capture

RATE = 0.1


class Hue(layers.Layer):  # type: ignore[misc]
    """Turns colours by an operation without a gradient."""

    def call(self, x: Any) -> Any:
        return tf.image.adjust_hue(x, 0.1)


def rotated() -> Any:
    """Return layers of which one turns pictures, which has no gradient in bfloat16."""
    return [layers.RandomRotation(0.2, seed=1, name="turned"), layers.Flatten()]


def coloured() -> Any:
    return [Hue(name="turned"), layers.Flatten()]


def train(path: Path | None, first: Any, dtype: str, capture: Capture) -> Any:
    keras.utils.set_random_seed(0)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        stack = [keras.Input((6, 6, 3)), *first(), layers.Dense(4, name="hidden"), layers.Dense(1)]
        model = keras.Sequential(stack, name="net")
    finally:
        keras.config.set_dtype_policy(before)
    model.compile(keras.optimizers.SGD(RATE), "mse")
    rng = np.random.default_rng(0)
    x, y = rng.random((24, 6, 6, 3)).astype(np.float32), rng.random((24, 1)).astype(np.float32)
    tracer = (
        [] if path is None else [Tracer(path, capture=capture, on_error="raise", progress=False)]
    )
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=tracer)
    return model


@pytest.mark.sampled(2)
@pytest.mark.parametrize("capture", ["auto", "beside"])
@pytest.mark.parametrize(
    ("first", "dtype", "error"),
    [(rotated, "mixed_bfloat16", "TypeError"), (coloured, "float32", "LookupError")],
)
def test_all_but_the_gradient_of_the_input_is_recorded(
    tmp_path: Path, first: Any, dtype: str, error: str, capture: Capture
) -> None:
    path = tmp_path / "run.zarr"
    plain, traced = (train(where, first, dtype, capture) for where in (None, path))
    for left, right in zip(weights_of(plain), weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()
    assert validate(path) == []
    attributes = read_attributes(path)
    assert attributes.status == "complete"
    reasons = {(m.kind, m.path): m.reason for m in attributes.missing}
    own = f"an operation between it and the loss has no gradient ({error}: "
    assert reasons["inputs", "x_gradient"].startswith(own)
    assert own in reasons["activation_gradients", "net/turned/output"]
    group: Any = zarr.open_group(path, mode="r")
    assert group["activations/net/turned/output"].shape[0] == 3
    assert group["activation_gradients/net/hidden/output"].shape[0] == 3
    for name in ("kernel", "bias"):
        weights, gradients = (
            np.asarray(group[f"{kind}/net/hidden/{name}"]) for kind in ("weights", "gradients")
        )
        np.testing.assert_allclose(np.diff(weights, axis=0), -RATE * gradients, atol=1e-6)
