"""The rules about steps and chunks."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from steptrace_schema.encoding.codecs import Encoding
from steptrace_schema.encoding.read_region import location_objects, overlaps, read_region
from steptrace_schema.encoding.zarr_private import chunk_keys
from steptrace_schema.errors import TraceError
from steptrace_schema.names import STEP
from steptrace_schema.validate.hierarchy import Hierarchy, group_of_steps
from steptrace_schema.validate.rules import COPY, REWRITE, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from steptrace_schema.encoding.read_region import Position

    _Part: TypeAlias = tuple[slice, ...]
    _Reading: TypeAlias = Callable[[_Part], object]
    _Object: TypeAlias = tuple[str, _Reading, Position, _Part]


def _steps(trace: Hierarchy, group: str) -> list[int] | None:
    key = f"{group}/{STEP}"
    if key not in trace.arrays or trace.dims(key) != (STEP,):
        return None
    try:
        return [int(s) for s in np.asarray(trace.arrays[key][: trace.rows(key)])]
    except Exception:  # what cannot be decoded is a violation of R18, found by `_chunks_decode`
        return None


def _steps_increase(trace: Hierarchy) -> Iterator[Problem]:
    for key in trace.arrays:
        if key.rpartition("/")[2] != STEP:
            continue
        steps = _steps(trace, key.rpartition("/")[0]) or []
        if any(step < 0 for step in steps):
            yield Problem(key, "R15", "steps from 0 on", f"step {min(steps)}", COPY)
        for before, after in itertools.pairwise(steps):
            if after <= before:
                found = f"step {after} after step {before}"
                yield Problem(key, "R15", "increasing steps", found, REWRITE)
                break


def _weights_end_after_last_step(trace: Hierarchy) -> Iterator[Problem]:
    if trace.attributes.status != "complete":
        return
    weights, steps = _steps(trace, "weights"), _steps(trace, "scalars")
    if weights and steps and weights[-1] <= steps[-1]:
        found = f"weights end at step {weights[-1]}, the run at {steps[-1]}"
        yield Problem("weights", "R16", "weights after the last step", found, REWRITE)


def _objects(trace: Hierarchy, key: str) -> Iterator[tuple[Position, _Part]]:
    """Yield grid position and part of the array of every object that holds recorded rows."""
    array = trace.arrays[key]
    rows = trace.rows(key)
    shape = array.shape if rows is None else (min(rows, array.shape[0]), *array.shape[1:])
    yield from _cells(tuple(slice(0, extent) for extent in shape), array.shards or array.chunks)


def _cells(part: _Part, unit: tuple[int, ...]) -> Iterator[tuple[Position, _Part]]:
    """Yield position and extent of every cell of a grid that a part of an array meets."""
    for position, _, inside in overlaps(part, unit):
        begins = [axis.start for axis in part]
        yield (
            position,
            tuple(slice(n + i.start, n + i.stop) for n, i in zip(begins, inside, strict=True)),
        )


def _chunks_are_stored(trace: Hierarchy) -> Iterator[Problem]:
    for key in trace.arrays:
        for position, part in _objects(trace, key):
            name = _file(trace, key, position)
            if name not in trace.files:
                yield Problem(key, "R17", f"file {name}", _where(trace, key, part), COPY)


def _chunks_decode(trace: Hierarchy) -> Iterator[Problem]:
    objects = (
        (key, read, position, part)
        for key in trace.arrays
        for read in [_reading(trace, key)]
        for position, part in _objects(trace, key)
        if _file(trace, key, position) in trace.files
    )

    def problems(stored: _Object) -> list[Problem]:
        key, read, position, part = stored
        return [
            Problem(key, "R18", "a chunk that decodes", f"{why}, {_where(trace, key, where)}", COPY)
            for why, where in _damage(trace, key, read, position, part)
        ]

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield from itertools.chain.from_iterable(pool.map(problems, objects))


def _damage(
    trace: Hierarchy, key: str, read: _Reading, position: Position, part: _Part
) -> list[tuple[str, _Part]]:
    """Return what is wrong with an object, and in which parts of the array.

    It is read as a whole first, which is fast, and chunk by chunk only if that fails.
    """
    error = _failure(read, part)
    if error is None:
        return []
    file = f"file {_file(trace, key, position)}"
    chunks = [*_cells(part, trace.arrays[key].chunks)]
    damaged = [(c, e, p) for c, p in chunks if (e := _failure(read, p)) is not None]
    if len(damaged) == len(chunks):  # all of them, or what says where they are
        return [(f"{error} in {file}", part)]
    return [(f"{why} in chunk {chunk} of {file}", where) for chunk, why, where in damaged]


def _failure(read: _Reading, part: _Part) -> str | None:
    try:
        read(part)
    except Exception as error:  # each codec raises its own kind
        return type(error).__name__
    return None


def _reading(trace: Hierarchy, key: str) -> _Reading:
    """Return what decodes a part of an array: directly, or as Zarr does if only it can."""
    array = trace.arrays[key]
    try:
        encoding = Encoding.of(array)
    except TraceError:
        return array.__getitem__
    objects, fill = location_objects(trace.path, key, array), array.fill_value
    return lambda part: read_region(encoding, part, array.dtype, fill, objects)


def _file(trace: Hierarchy, key: str, position: Position) -> str:
    return f"{key}/{chunk_keys(trace.arrays[key])(position)}"


def _where(trace: Hierarchy, key: str, part: _Part) -> str:
    dims, shape = trace.dims(key), trace.arrays[key].shape
    found = [
        f"{dim} {axis.start} to {axis.stop - 1}"
        for dim, axis, extent in zip(dims, part, shape, strict=True)
        if dim != STEP and axis != slice(0, extent)
    ]
    if dims[:1] == (STEP,):
        found.insert(0, _rows(trace, key, part[0]))
    return "missing or damaged: " + (", ".join(found) or "the whole array")


def _rows(trace: Hierarchy, key: str, rows: slice) -> str:
    steps = _steps(trace, group_of_steps(key))
    if key.endswith(f"/{STEP}") or not steps or rows.stop > len(steps):
        return f"rows {rows.start} to {rows.stop - 1}"
    return f"steps {steps[rows.start]} to {steps[rows.stop - 1]}"


DATA_CHECKS = (_steps_increase, _weights_end_after_last_step, _chunks_are_stored, _chunks_decode)
"""One function per rule, in the order of the rules."""
