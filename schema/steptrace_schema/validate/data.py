"""The rules about steps and chunks."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from steptrace_schema.encoding.read_region import overlaps
from steptrace_schema.names import DIGESTS, STATISTICS, STATISTICS_VALUES, STEP
from steptrace_schema.statistics.digests import UNKNOWN_DIGEST, row_digests
from steptrace_schema.validate.hierarchy import Hierarchy, group_of_steps
from steptrace_schema.validate.rules import COPY, MOST_PROBLEMS, REWRITE, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_schema.encoding.objects import Position

    _Part: TypeAlias = tuple[slice, ...]
    _Object: TypeAlias = tuple[str, Position, _Part, int]
    """The array, where in its grid, which part of it, and stored bytes."""


def _steps_increase(trace: Hierarchy) -> Iterator[Problem]:
    for key in trace.arrays:
        if key.rpartition("/")[2] != STEP:
            continue
        steps = trace.steps(key.rpartition("/")[0])
        if steps is None or not len(steps):
            continue
        if (least := steps.min()) < 0:
            yield Problem(key, "R15", "steps from 0 on", f"step {least}", COPY)
        (wrong,) = np.nonzero(steps[1:] <= steps[:-1])
        if len(wrong):
            found = f"step {steps[wrong[0] + 1]} after step {steps[wrong[0]]}"
            yield Problem(key, "R15", "increasing steps", found, REWRITE)


def _weights_end_after_last_step(trace: Hierarchy) -> Iterator[Problem]:
    if trace.attributes.status != "complete":
        return
    weights, steps = trace.steps("weights"), trace.steps("scalars")
    if weights is None or steps is None or not len(weights) or not len(steps):
        return
    if weights[-1] <= steps[-1]:
        found = f"weights end at step {weights[-1]}, the run at {steps[-1]}"
        yield Problem("weights", "R16", "weights after the last step", found, REWRITE)


def _objects(trace: Hierarchy, key: str) -> Iterator[tuple[Position, _Part]]:
    """Yield grid position and part of the array of every object that holds recorded rows."""
    array = trace.arrays[key]
    rows = trace.rows(key)
    shape = array.shape if rows is None else (min(rows, array.shape[0]), *array.shape[1:])
    yield from _cells(tuple(slice(0, extent) for extent in shape), array.metadata.unit)


def _cells(part: _Part, unit: tuple[int, ...]) -> Iterator[tuple[Position, _Part]]:
    """Yield position and extent of every cell of a grid that a part of an array meets."""
    for position, _, inside in overlaps(part, unit):
        begins = [axis.start for axis in part]
        yield (
            position,
            tuple(slice(n + i.start, n + i.stop) for n, i in zip(begins, inside, strict=True)),
        )


def _chunks_are_stored(trace: Hierarchy) -> Iterator[Problem]:
    for key, array in trace.arrays.items():
        for position, part in _objects(trace, key):
            if not array.size(position):
                name = array.metadata.object_name(position)
                yield Problem(key, "R17", f"file {name}", _where(trace, key, part), COPY)


def _chunks_decode(trace: Hierarchy) -> Iterator[Problem]:
    objects = (
        (key, position, part, size)
        for key, array in trace.arrays.items()
        for position, part in _objects(trace, key)
        if (size := array.size(position))
    )

    def problems(stored: _Object) -> list[Problem]:
        key, _, _, _ = stored
        return [
            Problem(key, "R18", "a chunk that decodes", f"{why}, {_where(trace, key, where)}", COPY)
            for why, where in _damage(trace, stored)
        ]

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield from itertools.chain.from_iterable(pool.map(problems, objects))


def _damage(trace: Hierarchy, stored: _Object) -> Iterator[tuple[str, _Part]]:
    """Yield what is wrong with an object, and in which parts of the array.

    It is read as a whole first, which is fast, and chunk by chunk only if that fails.
    """
    key, position, part, _ = stored
    error = _failure(trace, stored, part)
    if error is None:
        return
    metadata = trace.arrays[key].metadata
    file = f"file {metadata.object_name(position)}"
    chunks, damaged = 0, []
    for chunk, inside in itertools.islice(_cells(part, metadata.encoding.chunks), MOST_PROBLEMS):
        chunks += 1
        if (why := _failure(trace, stored, inside)) is not None:
            damaged.append((why, chunk, inside))
    if len(damaged) == chunks:  # all of them, or what says where they are
        yield f"{error} in {file}", part
        return
    for why, chunk, where in damaged:
        yield f"{why} in chunk {chunk} of {file}", where


def _failure(trace: Hierarchy, stored: _Object, part: _Part) -> str | None:
    key, _, _, size = stored
    try:
        values = trace.arrays[key].read_stored(part, size)
    except Exception as error:  # each way of being wrong raises its own kind
        return type(error).__name__
    if _has_digests(trace, key) and values.shape[1:] == trace.arrays[key].shape[1:]:
        trace.digests[key, part[0].start] = row_digests(values)
    return None


def _has_digests(trace: Hierarchy, key: str) -> bool:
    """Whether the trace states digests of the rows of an array."""
    kind, slash, _ = key.partition("/")
    digests = f"{STATISTICS}/{kind}/{DIGESTS}"
    return bool(slash) and trace.dims(key)[:1] == (STEP,) and digests in trace.arrays


def _digests_match(trace: Hierarchy) -> Iterator[Problem]:
    for key in trace.arrays:
        if key.startswith(f"{STATISTICS}/") and key.endswith(f"/{DIGESTS}"):
            yield from _other_digests(trace, key.split("/")[1])


def _other_digests(trace: Hierarchy, kind: str) -> Iterator[Problem]:
    """Yield the digests of a kind that are not those of the tensors in the store."""
    group = f"{STATISTICS}/{kind}"
    described, steps = trace.steps(group), trace.steps(kind)
    values = trace.arrays.get(f"{group}/{STATISTICS_VALUES}")
    tensors = values.attributes.get("tensors") if values is not None else None
    if described is None or steps is None or not isinstance(tensors, list):
        return  # a violation of R8 or R13
    try:
        digests = trace.arrays[f"{group}/{DIGESTS}"].read_rows(trace.rows(f"{group}/{DIGESTS}"))
    except Exception:  # a violation of R18
        return
    if digests.shape != (len(described), len(tensors)) or digests.dtype != np.int64:
        return  # a violation of R9 or R21
    _, rows, columns = np.intersect1d(steps, described, return_indices=True)
    stated = digests[columns]
    present = [n for n, path in enumerate(tensors) if f"{kind}/{path}" in trace.arrays]

    def wrong(number: int) -> Problem | None:
        return _other_digest(trace, f"{kind}/{tensors[number]}", steps, rows, stated[:, number])

    if len(rows):
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            yield from (problem for problem in pool.map(wrong, present) if problem is not None)


def _other_digest(
    trace: Hierarchy,
    key: str,
    steps: npt.NDArray[np.int64],
    rows: npt.NDArray[np.intp],
    stated: npt.NDArray[np.int64],
) -> Problem | None:
    """Return the first digest of a tensor that is not that of its row; they are of `rows`."""
    array = trace.arrays[key]
    unit = array.metadata.unit[0]  # as many rows as were decoded at once
    for start in range(0, len(steps), unit):
        part = slice(start, min(start + unit, len(steps)))
        inside = (rows >= part.start) & (rows < part.stop)
        found = trace.digests.get((key, start))
        if found is None or len(found) != part.stop - part.start:
            try:
                found = row_digests(array.read((part, *(slice(0, n) for n in array.shape[1:]))))
            except Exception:  # a violation of R17 or R18
                continue
        computed = found[rows[inside] - part.start]
        (wrong,) = np.nonzero((stated[inside] != computed) & (stated[inside] != UNKNOWN_DIGEST))
        if len(wrong):
            step = steps[rows[inside][wrong[0]]]
            expected = f"digest {stated[inside][wrong[0]]} at step {step}"
            return Problem(key, "R22", expected, str(computed[wrong[0]]), COPY)
    return None


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
    steps = trace.steps(group_of_steps(key))
    if key.endswith(f"/{STEP}") or steps is None or not len(steps) or rows.stop > len(steps):
        return f"rows {rows.start} to {rows.stop - 1}"
    return f"steps {steps[rows.start]} to {steps[rows.stop - 1]}"


DATA_CHECKS = (
    _steps_increase,
    _weights_end_after_last_step,
    _chunks_are_stored,
    _chunks_decode,
    _digests_match,
)
"""One function per rule, in the order of the rules."""
