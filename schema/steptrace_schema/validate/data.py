"""The rules about steps and chunks."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from steptrace_schema.codecs import Encoding
from steptrace_schema.errors import TraceError
from steptrace_schema.names import STEP
from steptrace_schema.reading import location_objects, read_region
from steptrace_schema.validate.hierarchy import Hierarchy, group_of_steps
from steptrace_schema.validate.rules import COPY, REWRITE, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    _Position: TypeAlias = tuple[int, ...]
    _Region: TypeAlias = tuple[slice, ...]
    _Unit: TypeAlias = tuple[str, Callable[[_Region], object], _Position, _Region]


def _steps(trace: Hierarchy, group: str) -> list[int] | None:
    key = f"{group}/{STEP}"
    if key not in trace.arrays or trace.dims(key) != (STEP,):
        return None
    try:
        return [int(s) for s in np.asarray(trace.arrays[key][: trace.rows(key)])]
    except Exception:
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


def _shards(trace: Hierarchy, key: str) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Yield grid position and region of every stored unit that holds recorded rows."""
    array = trace.arrays[key]
    rows = trace.rows(key)
    shape = array.shape if rows is None else (min(rows, array.shape[0]), *array.shape[1:])
    unit = array.shards or array.chunks
    counts = [-(-extent // size) for extent, size in zip(shape, unit, strict=True)]
    for position in itertools.product(*(range(n) for n in counts)):
        region = tuple(
            slice(i * size, min((i + 1) * size, extent))
            for i, size, extent in zip(position, unit, shape, strict=True)
        )
        yield position, region


def _chunks_are_stored(trace: Hierarchy) -> Iterator[Problem]:
    for key in trace.arrays:
        for position, region in _shards(trace, key):
            name = _file(trace, key, position)
            if name not in trace.files:
                yield Problem(key, "R17", f"file {name}", _where(trace, key, region), COPY)


def _chunks_decode(trace: Hierarchy) -> Iterator[Problem]:
    units = (
        (key, read, position, region)
        for key in trace.arrays
        for read in [_reading(trace, key)]
        for position, region in _shards(trace, key)
        if _file(trace, key, position) in trace.files
    )

    def problem(unit: _Unit) -> Problem | None:
        key, read, position, region = unit
        try:
            read(region)
        except Exception as error:  # each codec raises its own kind
            name = _file(trace, key, position)
            found = f"{type(error).__name__} in file {name}, {_where(trace, key, region)}"
            return Problem(key, "R18", "a chunk that decodes", found, COPY)
        return None

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield from filter(None, pool.map(problem, units))


def _reading(trace: Hierarchy, key: str) -> Callable[[tuple[slice, ...]], object]:
    """Return what decodes a region of an array: directly, or as Zarr does if only it can."""
    array = trace.arrays[key]
    try:
        encoding = Encoding.of(array)
    except TraceError:
        return array.__getitem__
    fetch, fill = location_objects(trace.path, key, array), array.fill_value
    return lambda region: read_region(encoding, region, array.dtype, fill, fetch)


def _file(trace: Hierarchy, key: str, position: tuple[int, ...]) -> str:
    return f"{key}/{trace.arrays[key].metadata.encode_chunk_key(position)}"


def _where(trace: Hierarchy, key: str, region: tuple[slice, ...]) -> str:
    if not region or trace.dims(key)[0] != STEP:
        return "missing or damaged: the whole array"
    steps = _steps(trace, group_of_steps(key))
    rows = region[0]
    if key.endswith(f"/{STEP}") or not steps or rows.stop > len(steps):
        return f"missing or damaged: rows {rows.start} to {rows.stop - 1}"
    return f"missing or damaged: steps {steps[rows.start]} to {steps[rows.stop - 1]}"


DATA_CHECKS = (_steps_increase, _weights_end_after_last_step, _chunks_are_stored, _chunks_decode)
"""One function per rule, in the order of the rules."""
