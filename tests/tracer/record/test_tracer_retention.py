"""A training of which only some steps keep their tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_analyzer.trace.open import open_trace
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer, around

if TYPE_CHECKING:
    from pathlib import Path


class Mark(keras.callbacks.Callback):  # type: ignore[misc]
    """Marks step number 7."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer
        self._seen = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._seen == 7:
            self._tracer.mark()
        self._seen += 1


def fit(callbacks: list[Any]) -> Any:
    """Train 15 steps; return the weights."""
    model, (x, y) = mlp(), vectors()
    model.fit(x, y, batch_size=8, epochs=5, shuffle=False, verbose=0, callbacks=callbacks)
    return weights_of(model)


def test_steps_around_a_mark_are_kept_and_the_training_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    tracer = Tracer(
        path, retain=around("mark", before=2, after=1), on_error="raise", progress=False
    )
    traced = fit([tracer, Mark(tracer)])
    for left, right in zip(fit([]), traced, strict=True):
        assert left.tobytes() == right.tobytes()
    group = zarr.open_group(path, mode="r")
    assert np.asarray(group["gradients/step"]).tolist() == [5, 6, 7, 8]
    assert np.asarray(group["weights/step"]).tolist() == [5, 6, 7, 8, 15]
    assert np.asarray(group["logged/step"]).tolist() == [7]
    assert np.asarray(group["scalars/step"]).tolist() == list(range(15))
    assert np.asarray(group["statistics/activations/step"]).tolist() == list(range(15))
    assert validate(path) == []
    last = open_trace(path)["weights/mlp/out"].dataset["kernel"].sel(step=15).to_numpy()
    assert last.tobytes() == traced[2].tobytes()


@pytest.mark.parametrize(
    "fields", [{"kinds": ("weights", "gradients")}, {"include": ("*/out/*",)}], ids=str
)
def test_a_mark_counts_whatever_else_is_recorded(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = tmp_path / "run.zarr"
    tracer = Tracer(
        path,
        retain=around("mark", before=2, after=1),
        on_error="raise",
        progress=False,
        **fields,
    )
    fit([tracer, Mark(tracer)])
    group = zarr.open_group(path, mode="r")
    assert np.asarray(group["gradients/step"]).tolist() == [5, 6, 7, 8]
    assert np.asarray(group["logged/mark"]).tolist() == [1.0]
    assert validate(path) == []
