"""What a custom step is called with: arrays of NumPy, and numbers that are no batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path


def train(path: Path | None, *, compiled: bool) -> list[Any]:
    """Train on arrays of NumPy, behind the number of the step, for four steps."""
    model = mlp()

    def step(number: Any, x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            error = tf.reduce_mean(tf.square(model(x, training=True) - y))
            error = error / tf.cast(number + 1, tf.float32)
        weights = model.trainable_variables
        gradients = tape.gradient(error, weights)
        model.optimizer.apply_gradients(zip(gradients, weights, strict=True))

    run = tf.function(step) if compiled else step
    tracer = None if path is None else Tracer(path, samples=8, on_error="raise", progress=False)
    if tracer is not None:
        run = tracer.wrap(run, models=[model], optimizers=[model.optimizer])
    x, y = vectors(32)
    for number, start in enumerate(range(0, 32, 8)):
        run(tf.constant(number), x[start : start + 8], y[start : start + 8])
    if tracer is not None:
        tracer.close()
    return weights_of(model)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "eager"])
def test_arrays_of_numpy_are_recorded_and_a_number_before_them_is_no_batch(
    tmp_path: Path, compiled: bool
) -> None:
    path = tmp_path / "run.zarr"
    traced = train(path, compiled=compiled)
    for left, right in zip(train(None, compiled=compiled), traced, strict=True):
        assert left.tobytes() == right.tobytes()
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    for name, values in zip("xy", vectors(32), strict=True):
        found = np.asarray(group[f"inputs/{name}"])
        assert found.tobytes() == values.reshape(found.shape).tobytes()
    assert len(np.unique(np.asarray(group["inputs/sample_digest"]))) == 32
