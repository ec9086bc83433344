"""Arrays that come late, or grow, once other records are already in the store."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from journals import attributes
from steptrace_schema.encoding import chunk_shapes
from steptrace_schema.format.layout import ArraySpec
from steptrace_schema.journal.declaration import Declaration
from steptrace_schema.journal.where import journal_path
from steptrace_schema.journal.writer import JournalWriter
from steptrace_schema.moving.journal_mover import JournalMover
from steptrace_schema.names import REQUIRED_SCALARS
from steptrace_schema.store.writer import TraceWriter
from steptrace_schema.validate import validate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHARD = 8


def scalars() -> dict[str, Any]:
    return {f"scalars/{name}": np.float32(1) for name in REQUIRED_SCALARS}


def declaration(width: int, *more: ArraySpec) -> Declaration:
    return Declaration(
        attributes(shard_steps=SHARD),
        (
            *(ArraySpec("scalars", name, (), (), "float32") for name in REQUIRED_SCALARS),
            ArraySpec("inputs", "x", ("sample", "time"), (2, width), "float32"),
            *more,
        ),
    )


def two_shards(store: Path, first: Declaration, then: Declaration, late: dict[str, Any]) -> Any:
    """Record one shard of steps under `first`, move it, and another under `then`."""
    journal = JournalWriter.create(journal_path(store), first)
    for step in range(SHARD):
        journal.append(step, scalars() | {"inputs/x": np.full((2, 3), step, np.float32)})
    assert JournalMover(journal.directory, store).move_ready() == SHARD
    journal.declare(then)
    for step in range(SHARD, 2 * SHARD):
        journal.append(step, scalars() | {"inputs/x": np.full((2, 3), step, np.float32)} | late)
    JournalMover(journal.directory, store).finish("complete", None)
    assert validate(store) == []
    return zarr.open_group(store, mode="r")


def test_a_row_that_grows_leaves_padding_in_the_rows_before(tmp_path: Path) -> None:
    wide = np.arange(20, dtype=np.float32).reshape(2, 10)
    group = two_shards(tmp_path / "run.zarr", declaration(3), declaration(10), {"inputs/x": wide})
    x = np.asarray(group["inputs/x"])
    assert x.shape == (16, 2, 10)
    assert (x[:8, :, :3] == np.arange(8, dtype=np.float32)[:, None, None]).all()
    assert np.isnan(x[:8, :, 3:]).all()
    assert (x[8:] == wide).all()


def test_an_array_that_comes_late_is_padding_before(tmp_path: Path) -> None:
    y = ArraySpec("inputs", "y", ("sample",), (2,), "int64")
    late = np.array([5, 6])
    first = declaration(3)
    then = dataclasses.replace(first, arrays=(*first.arrays, y))
    group = two_shards(tmp_path / "run.zarr", first, then, {"inputs/y": late})
    found = np.asarray(group["inputs/y"])
    assert (found[:8] == -1).all()
    assert (found[8:] == late).all()


@pytest.mark.parametrize("lost", ["c.0.0.0", "c.0.0.1", "c.1.0.1", "c.1.1.0", "c.1.0.0"])
def test_an_array_that_comes_late_is_filled_up_after_a_crash_at_any_of_its_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr(chunk_shapes, "_SMALL_CHUNK", 256)
    monkeypatch.setattr(chunk_shapes, "_LARGEST_CHUNK", 256)
    monkeypatch.setattr(chunk_shapes, "_LARGEST_SHARD", 256)
    spec = ArraySpec("gradients", "late", ("in", "out"), (2, 16), "float32")
    values = np.arange(32, dtype=np.float32).reshape(2, 16)
    store = TraceWriter(tmp_path / "run.zarr", attributes(shard_steps=SHARD))
    with failing_at(f"gradients/late/{lost}"), pytest.raises(PowerError):
        store.array(spec, 2 * SHARD, 1)
    again = TraceWriter(tmp_path / "run.zarr", attributes())
    again.array(spec, 2 * SHARD, 1).write(2 * SHARD, values[np.newaxis])
    found = {file.name for file in (tmp_path / "run.zarr/gradients/late").glob("c.*")}
    assert found == {f"c.{i}.{j}.{k}" for i in range(3) for j in range(2) for k in range(2)}
    late = np.asarray(zarr.open_group(tmp_path / "run.zarr", mode="r")["gradients/late"])
    assert np.isnan(late[: 2 * SHARD]).all()
    assert late[2 * SHARD].tobytes() == values.tobytes()


class PowerError(Exception):
    """The process ends here."""


@contextlib.contextmanager
def failing_at(key: str) -> Iterator[None]:
    """Have the object at `key` never written while the context lasts."""
    is_on = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if is_on and event == "open" and key in str(arguments[0]) and arguments[2] & os.O_ACCMODE:
            raise PowerError

    sys.addaudithook(hook)  # which cannot be taken away again
    try:
        yield
    finally:
        is_on = False
