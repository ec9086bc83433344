"""What tells two tensors apart without reading them: digests, else statistics, else values."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_analyzer.trace.select import get_tensor, recorded_steps, tensor_paths
from steptrace_schema.names import (
    DIGESTS,
    KINDS,
    STATISTICS,
    STATISTICS_VALUES,
    STEP,
    STEP_DURATION,
    TENSOR,
    WALL_TIME,
)
from steptrace_schema.statistics.digests import UNKNOWN_DIGEST, row_digests

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    import xarray as xr

    from steptrace_schema.names import Kind

CLOCK: Final = frozenset({WALL_TIME, STEP_DURATION})
"""Scalars of the clock, which no two runs share."""

BLOCK_STEPS: Final = 256
"""Steps that are compared at once: those of one chunk of digests."""


@dataclasses.dataclass(frozen=True)
class Marks:
    """What a trace has of one kind that tells its tensors apart.

    Attributes
    ----------
    kind
        The kind.
    steps
        Those of the rows of `digests` and `statistics`, ascending.
    names
        Paths of the tensors that they are of.
    digests
        Dims (step, tensor), int64, lazy; None where the trace has none.
    statistics
        Dims (step, tensor, statistic), lazy; None where the trace has none.
    plain
        Paths of the small arrays that are compared themselves, because nothing describes them.
    """

    kind: Kind
    steps: npt.NDArray[np.int64]
    names: tuple[str, ...]
    digests: xr.DataArray | None
    statistics: xr.DataArray | None
    plain: tuple[str, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """Every tensor of the kind."""
        return (*self.names, *self.plain)


def marks_of(trace: xr.DataTree, kind: Kind) -> Marks:
    """Return what a trace has of a kind, with no tensor read.

    Parameters
    ----------
    trace
        An opened trace.
    kind
        A kind of data.
    """
    group = trace.children.get(STATISTICS)
    node = None if group is None else group.children.get(kind)
    recorded = [p for p in tensor_paths(trace, kind) if not (kind == "scalars" and p in CLOCK)]
    if node is None or not {STATISTICS_VALUES, DIGESTS} & set(node.data_vars):
        return Marks(kind, np.empty(0, np.int64), (), None, None, tuple(recorded))
    values = node.dataset.get(STATISTICS_VALUES)
    digests = node.dataset.get(DIGESTS)
    if digests is not None and (digests.dims != (STEP, TENSOR) or digests.dtype != np.int64):
        digests = None  # written by no one; 'steptrace validate' says so
    names = tuple(str(name) for name in node.dataset.coords[TENSOR].to_numpy())
    known = set(names)
    plain = tuple(path for path in recorded if path not in known)
    steps = np.asarray(node.dataset.coords[STEP], dtype=np.int64)
    return Marks(kind, steps, names, digests, values, plain)


def marked_kinds(trace: xr.DataTree) -> list[Kind]:
    """Return the kinds that a trace has data or statistics of, but for derived updates."""
    return [kind for kind in KINDS if marks_of(trace, kind).paths]


@dataclasses.dataclass(frozen=True)
class Unequal:
    """A tensor that is not equal at a step, as far as its fingerprint says.

    Attributes
    ----------
    step
        The step, in the first trace.
    kind, path
        The tensor, as the first trace names it.
    """

    step: int
    kind: Kind
    path: str


def unequal_in(
    a: Marks, b: Marks, in_b: dict[str, str], window: tuple[int, int], shift: int
) -> tuple[list[Unequal], int, int, int]:
    """Compare the marks of one kind at the steps of a window.

    Parameters
    ----------
    a, b
        Of both traces.
    in_b
        Path of a tensor in the first trace to that in the second, for those that both have.
    window
        First step, and the one after the last.
    shift
        What is added to a step of the first for that of the second.

    Returns
    -------
    tuple
        What differs; how many tensors and steps were compared exactly, by digest; how many by their
        statistics alone; and how many have no value in either.
    """
    rows_a, rows_b, steps = _common(a.steps, b.steps, window, shift)
    columns = {name: column for column, name in enumerate(b.names)}
    pairs = [
        (i, columns[in_b[name]]) for i, name in enumerate(a.names) if in_b.get(name) in columns
    ]
    if not len(steps) or not pairs:
        return [], 0, 0, 0
    left, right = (np.array(side) for side in zip(*pairs, strict=True))
    known = np.zeros((len(steps), len(pairs)), bool)
    apart = np.zeros_like(known)
    if a.digests is not None and b.digests is not None:
        digests_a = _rows(a.digests, rows_a)[:, left]
        digests_b = _rows(b.digests, rows_b)[:, right]
        known = (digests_a != UNKNOWN_DIGEST) & (digests_b != UNKNOWN_DIGEST)
        apart = known & (digests_a != digests_b)
        missing = (digests_a == UNKNOWN_DIGEST) & (digests_b == UNKNOWN_DIGEST)
    else:
        missing = np.zeros_like(known)
    described = a.statistics is not None and b.statistics is not None
    if not known.all() and a.statistics is not None and b.statistics is not None:
        values_a = _rows(a.statistics, rows_a)[:, left]
        values_b = _rows(b.statistics, rows_b)[:, right]
        same = ((values_a == values_b) | (np.isnan(values_a) & np.isnan(values_b))).all(axis=2)
        apart |= ~known & ~same
        missing &= np.isnan(values_a).all(axis=2)  # there is no value on either side
    found = [
        Unequal(int(steps[row]), a.kind, a.names[int(left[column])])
        for row, column in np.argwhere(apart)
    ]
    weak = int((~known & ~missing).sum()) if described else 0
    return found, int(known.sum()), weak, int(missing.sum())


def unequal_plain(
    a: xr.DataArray,
    b: xr.DataArray,
    window: tuple[int, int],
    shift: int,
) -> tuple[list[int], int]:
    """Compare small arrays themselves; return the steps that differ, and how many were compared."""
    steps_a = np.asarray(a.coords[STEP], dtype=np.int64)
    steps_b = np.asarray(b.coords[STEP], dtype=np.int64)
    rows_a, rows_b, steps = _common(steps_a, steps_b, window, shift)
    if not len(steps):
        return [], 0
    values_a, values_b = _rows(a, rows_a), _rows(b, rows_b)
    if values_a.dtype != values_b.dtype:
        same = np.array(
            [np.array_equal(x, y, equal_nan=True) for x, y in zip(values_a, values_b, strict=True)]
        )
    else:
        same = row_digests(values_a) == row_digests(values_b)
    return [int(step) for step in steps[~same]], len(steps)


def windows(steps: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first step of each window, and the one after its last."""
    for start in range(0, len(steps), BLOCK_STEPS):
        part = steps[start : start + BLOCK_STEPS]
        yield part[0], part[-1] + 1


def steps_of(trace: xr.DataTree, marks: Marks) -> set[int]:
    """Return the steps at which a trace has anything of a kind."""
    found = set(marks.steps.tolist())
    for path in marks.plain:
        array = get_tensor(trace, marks.kind, path)
        if array.dims[:1] == (STEP,):
            found.update(recorded_steps(array))
            break
    return found


def _common(
    a: npt.NDArray[np.int64], b: npt.NDArray[np.int64], window: tuple[int, int], shift: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    steps, rows_a, rows_b = np.intersect1d(a, b - shift, return_indices=True)
    inside = (steps >= window[0]) & (steps < window[1])
    return rows_a[inside], rows_b[inside], steps[inside]


def _rows(array: xr.DataArray, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    first, last = int(rows[0]), int(rows[-1])
    found = np.asarray(array.isel({STEP: slice(first, last + 1)}))
    return found if last - first + 1 == len(rows) else found[rows - first]
