"""Many short fits with one tracer: the recording rests between them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer
from steptrace_tracer.record import recorder_handle, recording

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

FITS = 6


def fit_often(callbacks: list[Any], compile_before: int | None = None) -> tuple[Any, list[float]]:
    """Train one batch at a time; the fourth one is smaller, and one may be compiled before."""
    model, (x, y) = mlp(), vectors(FITS * 8)
    losses = []
    for number in range(FITS):
        if number == compile_before:
            model.compile(keras.optimizers.SGD(0.05), "mse")
        rows = slice(8 * number, 8 * number + (5 if number == 3 else 8))
        history = model.fit(x[rows], y[rows], batch_size=8, verbose=0, callbacks=callbacks)
        losses.append(history.history["loss"][0])
    return model, losses


def test_many_fits_are_one_recording_that_is_finished_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    original = recorder_handle.Recorder

    def count(store: Any) -> Any:
        started.append(store)
        return original(store)

    monkeypatch.setattr(recording, "Recorder", count)
    path = tmp_path / "run.zarr"
    plain, expected = fit_often([])
    tracer = Tracer(path, on_error="raise", progress=False)
    model, losses = fit_often([tracer])
    assert read_attributes(path).status == "recording"
    tracer.close()
    assert len(started) == 3
    assert losses == expected
    for one, other in zip(weights_of(plain), weights_of(model), strict=True):
        assert one.tobytes() == other.tobytes()
    assert read_attributes(path).status == "complete"
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    assert np.asarray(group["scalars/step"]).tolist() == list(range(FITS))
    np.testing.assert_allclose(np.asarray(group["scalars/loss"]), expected, rtol=1e-6)
    assert np.asarray(group["scalars/batch_size"]).tolist() == [8, 8, 8, 5, 8, 8]
    last = np.asarray(group["weights/mlp/hidden/kernel"])[-1]
    assert last.tobytes() == weights_of(model)[0].tobytes()


def test_a_recording_that_rests_is_finished_after_a_while_and_before_another_compile(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run.zarr"
    plain, _ = fit_often([], compile_before=4)
    model, _ = fit_often([Tracer(path, on_error="raise", progress=False)], compile_before=4)
    for one, other in zip(weights_of(plain), weights_of(model), strict=True):
        assert one.tobytes() == other.tobytes()
    end = time.monotonic() + 60
    while read_attributes(path).status != "complete" and time.monotonic() < end:
        time.sleep(0.1)
    assert read_attributes(path).status == "complete"
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    assert np.asarray(group["scalars/step"]).tolist() == list(range(FITS))
