"""A disk that gets full ends the tracing, not the training; what was recorded is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest

from keras_models import mlp, vectors, weights_of
from steptrace_analyzer.trace.open import open_trace, trace_attributes
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.where import journal_path
from steptrace_schema.moving.recover import recover
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import xarray as xr

EPOCHS = 20


def _mount(folder: Path, size: str) -> None:
    """Mount a file system of so many bytes, which takes the rights of root."""
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"a small file system cannot be mounted, so nothing is tested: {error}")
        pytest.skip("a small file system cannot be mounted here")


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _free(folder: Path) -> int:
    """Return the bytes that are free on the disk of a folder."""
    return shutil.disk_usage(folder).free


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    _mount(folder, "2m")
    yield folder
    _unmount(folder)


def _fit(callbacks: list[Any]) -> Any:
    model, (x, y) = mlp(), vectors()
    model.fit(x, y, batch_size=8, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=callbacks)
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Return the trace of the same training on a disk with room, and its final weights."""
    path = tmp_path_factory.mktemp("whole") / "run.zarr"
    return path, weights_of(_fit([Tracer(path, on_error="raise", progress=False)]))


def _fit_warned(callbacks: list[Any]) -> tuple[Any, str, int]:
    """Train, and return the model, the one warning, and how many steps were done before it."""
    before: list[int] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def count(batch: int, logs: Any) -> None:
            if not any(w.category is RuntimeWarning for w in caught):
                before.append(batch)

        traced = _fit([*callbacks, keras.callbacks.LambdaCallback(on_train_batch_end=count)])
    (said,) = [str(w.message) for w in caught if w.category is RuntimeWarning]
    return traced, said, len(before)


def _assert_same(weights: list[Any], traced: Any) -> None:
    for left, right in zip(weights, weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()


def _finished(store: Path, elsewhere: Path) -> int:
    """Recover the trace, check it, and return how many steps it has."""
    recover(store)
    assert not journal_path(store).exists()
    assert validate(store) == []
    assert read_attributes(store).status == "incomplete"
    assert "No space left on device" in str(read_attributes(store).status_reason)
    return _steps_of_prefix(open_trace(store), elsewhere)


def test_a_disk_that_is_full_for_the_journal_ends_the_tracing_with_one_warning(
    small_disk: Path, whole: tuple[Path, list[Any]]
) -> None:
    store = small_disk / "run.zarr"
    elsewhere, weights = whole
    (small_disk / "other").write_bytes(bytes(13 * 2**17))
    # So much may wait that nothing is moved into the store while the training goes on.
    traced, said, done = _fit_warned([Tracer(store, progress=False, journal_limit=2**30)])
    assert said.startswith(f"{store}: tracing stopped: a step could not be recorded ([Errno 28] ")
    assert "; the training continues without the tracer, and earlier steps are kept: " in said
    assert said.endswith(f"free space and run 'steptrace recover {store}' to finish the trace")
    _assert_same(weights, traced)
    tree = open_trace(store)
    found = trace_attributes(tree)
    assert found.status == "incomplete"
    assert "No space left on device" in str(found.status_reason)
    assert found.records == 0  # of those in the store
    assert _steps_of_prefix(tree, elsewhere) == done
    (small_disk / "other").unlink()
    assert _finished(store, elsewhere) == done


class SmallStore(keras.callbacks.Callback):  # type: ignore[misc]
    """Gives the store a small disk of its own after the first step, before anything is moved."""

    def __init__(self, store: Path) -> None:
        super().__init__()
        self.mounted = False
        self._store = store

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self.mounted:
            self._store.mkdir()
            _mount(self._store, "256k")
            self.mounted = True


def test_a_disk_that_is_full_for_the_store_leaves_every_step_in_the_journal(
    tmp_path: Path, whole: tuple[Path, list[Any]]
) -> None:
    store, (elsewhere, weights) = tmp_path / "run.zarr", whole
    small = SmallStore(store)
    try:
        # So little may wait that the training goes no further than the store.
        tracer = Tracer(store, progress=False, journal_limit=100_000)
        traced, said, done = _fit_warned([tracer, small])
        assert said.startswith(f"{store}: tracing stopped: the recorder process failed ([Errno 28]")
        assert f"'steptrace recover {store}' finishes the trace" in said
        assert said.endswith("and earlier steps are kept: free space")
        _assert_same(weights, traced)
        assert _free(store) < 2**13
        assert _free(journal_path(store)) > 2**24
        moved = read_attributes(store).records if (store / "zarr.json").exists() else 0
        waiting = JournalReader(journal_path(store)).pending().records
        assert waiting > 0
        steps = _steps_of_prefix(open_trace(store), elsewhere)
        assert moved + waiting >= steps  # those that are moved may not be deleted yet
        # The step that waited for room when the recorder failed is not recorded.
        assert done - 1 <= steps <= done + 1
        grown = ["mount", "-o", "remount,size=8m", str(store)]
        subprocess.run(grown, check=True, capture_output=True)
        assert _finished(store, elsewhere) == steps
    finally:
        if small.mounted:
            _unmount(store)


def _steps_of_prefix(found: xr.DataTree, whole: Path) -> int:
    """Check that a trace has the first steps of another one; return how many."""
    expected = open_trace(whole)
    steps = found["scalars"].sizes["step"]
    assert 3 < steps < 3 * EPOCHS, steps
    for path in ("weights/mlp/hidden/kernel", "gradients/mlp/out/bias", "scalars/loss"):
        left, right = np.asarray(found[path]), np.asarray(expected[path])
        assert left.tobytes() == right[:steps].tobytes()
    return steps
