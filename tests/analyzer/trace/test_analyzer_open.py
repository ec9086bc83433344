"""A trace opens with every completed step: finished, being written, broken off, or packed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr

from journals import Arrays, attributes, random_steps, write_journal
from steptrace_analyzer.trace.open import open_trace, trace_attributes
from steptrace_schema.errors import DamagedTraceError, NotATraceError, UnsupportedVersionError
from steptrace_schema.journal.where import journal_path
from steptrace_schema.moving.journal_mover import JournalMover
from steptrace_schema.moving.recover import recover
from steptrace_schema.storage.locks import exclusive
from steptrace_schema.store.opening import read_attributes

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


def values(tree: xr.DataTree, path: str) -> npt.NDArray[Any]:
    array = tree[path]
    assert isinstance(array, xr.DataArray)
    return array.to_numpy()


def assert_holds(tree: xr.DataTree, steps: list[tuple[int, Arrays]]) -> None:
    for key in steps[0][1]:
        rows = [(step, arrays[key]) for step, arrays in steps if key in arrays]
        assert np.array_equal(values(tree, key), np.stack([row for _, row in rows]))
        array = tree[key]
        assert isinstance(array, xr.DataArray)
        assert array.step.values.tolist() == [step for step, _ in rows]


def finished(tmp_path: Path, **fields: Any) -> tuple[Path, list[tuple[int, Arrays]]]:
    store, steps = tmp_path / "run.zarr", random_steps(21)
    write_journal(store, steps, **fields).close("complete", None, attributes(**fields))
    recover(store)
    return store, steps


def test_a_finished_trace_holds_every_step(tmp_path: Path) -> None:
    store, steps = finished(tmp_path)
    tree = open_trace(store)
    assert_holds(tree, steps)
    assert trace_attributes(tree).status == "complete"
    assert tree.name == "run.zarr"


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_a_broken_off_trace_joins_store_and_journal(tmp_path: Path, moves: int) -> None:
    store, steps = tmp_path / "run.zarr", random_steps(21)
    writer = write_journal(store, steps, shard_steps=8)
    if moves:
        mover = JournalMover(writer.directory, store)
        for _ in range(moves):
            next(mover.move_all())
    del writer  # as if its process had been killed
    tree = open_trace(store)
    assert_holds(tree, steps)
    found = trace_attributes(tree)
    assert found.status == "incomplete"
    assert "steptrace recover" in str(found.status_reason)


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_statistics_do_not_depend_on_where_a_step_is(tmp_path: Path, moves: int) -> None:
    steps = random_steps(21)
    whole, parts = tmp_path / "whole.zarr", tmp_path / "parts.zarr"
    write_journal(whole, steps, shard_steps=8)
    recover(whole)
    writer = write_journal(parts, steps, shard_steps=8)
    for _ in range(moves):
        next(JournalMover(writer.directory, parts).move_all())
    a, b = open_trace(whole), open_trace(parts)
    for kind in ("weights", "gradients", "updates"):
        left, right = a[f"statistics/{kind}"].dataset, b[f"statistics/{kind}"].dataset
        xr.testing.assert_identical(
            left.load()["values"].drop_attrs(), right.load()["values"].drop_attrs()
        )
        assert left.tensor.values.tolist() == ["dense/kernel"]


def test_a_trace_whose_recorder_lives_is_being_recorded(tmp_path: Path) -> None:
    store, steps = tmp_path / "run.zarr", random_steps(5)
    write_journal(store, steps)
    with exclusive(journal_path(store)):
        tree = open_trace(store)
    assert trace_attributes(tree).status == "recording"
    assert_holds(tree, steps)


def test_records_moved_while_opening_are_seen_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, steps = tmp_path / "run.zarr", random_steps(21)
    writer = write_journal(store, steps, shard_steps=8)
    next(JournalMover(writer.directory, store).move_all())

    def move_first(path: Path) -> Any:
        next(JournalMover(writer.directory, store).move_all())
        return read_attributes(path)

    monkeypatch.setattr("steptrace_analyzer.trace.open.read_attributes", move_first)
    assert_holds(open_trace(store), steps)


def test_rows_beyond_what_is_committed_are_not_data(tmp_path: Path) -> None:
    store, steps = tmp_path / "run.zarr", random_steps(21)
    writer = write_journal(store, steps, shard_steps=8)
    mover = JournalMover(writer.directory, store)
    next(mover.move_all())
    metadata = (store / "zarr.json").read_text()
    saved = {p.name: p.read_bytes() for p in writer.directory.glob("*.safetensors")}
    next(mover.move_all())
    (store / "zarr.json").write_text(metadata)  # as if killed before the commit
    for name, content in saved.items():
        (writer.directory / name).write_bytes(content)
    assert_holds(open_trace(store), steps)


def test_updates_are_derived_from_consecutive_weights(tmp_path: Path) -> None:
    store, steps = finished(tmp_path)
    kernels = np.stack([arrays["weights/dense/kernel"] for _, arrays in steps])
    assert np.array_equal(
        values(open_trace(store), "updates/dense/kernel"), np.diff(kernels, axis=0)
    )


def test_opening_reads_no_chunk(tmp_path: Path) -> None:
    store, _ = finished(tmp_path)
    for chunk in store.glob("weights/dense/kernel/c.*"):
        chunk.write_bytes(b"")
    tree = open_trace(store)
    assert tree["gradients/dense/kernel"].shape == (21, 3, 4)
    with pytest.raises(DamagedTraceError, match=r"run\.zarr.*'weights/dense/kernel'.*rows \d"):
        values(tree, "weights/dense/kernel")


@pytest.mark.parametrize("length", [1, 100])
def test_a_truncated_chunk_is_named_with_its_array(tmp_path: Path, length: int) -> None:
    store, _ = finished(tmp_path)
    chunk = store / "weights/dense/kernel/c.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-length])
    with pytest.raises(DamagedTraceError, match=r"run\.zarr.*'weights/dense/kernel'.*rows 0"):
        values(open_trace(store), "weights/dense/kernel")


def test_a_deleted_chunk_is_not_taken_for_nan(tmp_path: Path) -> None:
    store, _ = finished(tmp_path, shard_steps=8)
    (store / "weights/dense/kernel/c.1.0.0").unlink()
    kernel = open_trace(store)["weights/dense"].dataset["kernel"]
    assert not np.isnan(kernel[:8].to_numpy()).any()
    with pytest.raises(DamagedTraceError, match=r"c\.1\.0\.0 is missing"):
        kernel.load()


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotATraceError, match="does not exist"):
        open_trace(tmp_path / "none.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(NotATraceError, match="is not a trace"):
        open_trace(tmp_path / "empty.zarr")


def test_a_newer_major_version_is_refused(tmp_path: Path) -> None:
    store, _ = finished(tmp_path)
    metadata = json.loads((store / "zarr.json").read_text())
    metadata["attributes"]["steptrace"]["version"] = "2.0"
    (store / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(UnsupportedVersionError, match="upgrade"):
        open_trace(store)
