"""A disk that gets full ends the tracing, not the training; what was recorded is there."""

from __future__ import annotations

import subprocess
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from keras_models import mlp, vectors, weights_of
from steptrace_analyzer.open import open_trace, trace_attributes
from steptrace_schema.compact import recover
from steptrace_schema.location import journal_path
from steptrace_schema.store import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EPOCHS = 40


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 2 MiB, which takes the rights of root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fit(callbacks: list[Any]) -> Any:
    model, (x, y) = mlp(), vectors()
    model.fit(x, y, batch_size=8, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=callbacks)
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Return the trace of the same training on a disk with room, and its final weights."""
    path = tmp_path_factory.mktemp("whole") / "run.zarr"
    return path, weights_of(_fit([Tracer(path, on_error="raise", progress=False)]))


@pytest.mark.parametrize(
    ("journal_limit", "taken"),
    [
        pytest.param(100_000, 5 * 2**18, id="by the store, or by a record"),
        pytest.param(2**30, 3 * 2**19, id="by the journal"),
    ],
)
def test_a_full_disk_ends_the_tracing_with_one_warning(
    small_disk: Path, whole: tuple[Path, list[Any]], journal_limit: int, taken: int
) -> None:
    store = small_disk / "run.zarr"
    elsewhere, weights = whole
    (small_disk / "other").write_bytes(bytes(taken))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        traced = _fit([Tracer(store, progress=False, journal_limit=journal_limit)])
    said = [str(w.message) for w in caught if w.category is RuntimeWarning]
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert "training goes on" in said[0]
    for left, right in zip(weights, weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()
    _assert_is_a_prefix(store, elsewhere)
    found = trace_attributes(open_trace(store))
    assert found.status == "incomplete"
    assert "No space left on device" in str(found.status_reason)
    if store.exists():
        assert validate(store) == []
    (small_disk / "other").unlink()
    recover(store)
    assert not journal_path(store).exists()
    assert validate(store) == []
    assert "No space left on device" in str(read_attributes(store).status_reason)
    _assert_is_a_prefix(store, elsewhere)


def _assert_is_a_prefix(store: Path, whole: Path) -> None:
    found, expected = open_trace(store), open_trace(whole)
    steps = found["scalars"].sizes["step"]
    assert 3 < steps < 3 * EPOCHS
    for path in ("weights/mlp/hidden/kernel", "gradients/mlp/out/bias", "scalars/loss"):
        left, right = np.asarray(found[path]), np.asarray(expected[path])
        assert left.tobytes() == right[:steps].tobytes()
