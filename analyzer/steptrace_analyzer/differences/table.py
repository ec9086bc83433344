"""Comparing one tensor of two sides element by element, within a fixed memory budget."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_analyzer.differences.elements import Accumulated
from steptrace_analyzer.differences.measuring import is_name
from steptrace_analyzer.differences.result import StepDistances, TensorDiff
from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.names import FINAL, STEP

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.differences.elements import Tolerance
    from steptrace_analyzer.differences.result import ComparedKind

    Block = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.int64] | None]

_BLOCK_BYTES: Final = 8 * 2**20  # of one side; float64 copies take a few times as much
_READ_BYTES: Final = 192 * 2**20
"""Of one side that are decoded at once, so that no chunk of a large tensor is decoded twice."""


@dataclasses.dataclass(frozen=True)
class Compared:
    """One tensor of both sides.

    Attributes
    ----------
    diff
        Over all steps.
    by_step
        Step by step; None for a tensor without steps.
    damage
        What could not be read and was skipped, one sentence each.
    """

    diff: TensorDiff
    by_step: StepDistances | None
    damage: tuple[str, ...]


def row_shape(array: xr.DataArray) -> tuple[int, ...]:
    """Return the shape of a tensor at one step."""
    return tuple(size for dim, size in array.sizes.items() if dim != STEP)


def compare_tensor(
    kind: ComparedKind,
    path: str,
    sides: tuple[xr.DataArray, xr.DataArray],
    tolerance: Tolerance,
    shift: int = 0,
) -> Compared:
    """Compare a tensor of two traces at the steps that both have.

    Parameters
    ----------
    kind, path
        Which tensor it is, as the first names it.
    sides
        The tensor in both, lazy, with rows of one shape.
    tolerance
        What counts as equal.
    shift
        What is added to a step of the first for that of the second.
    """
    damage: list[str] = []
    return compare_blocks(kind, path, _aligned(*sides, shift, damage), tolerance, damage)


def compare_blocks(
    kind: ComparedKind,
    path: str,
    blocks: Iterable[Block],
    tolerance: Tolerance,
    damage: list[str] | None = None,
) -> Compared:
    """Compare the blocks of a tensor; `damage` is what is added to while they are read."""
    state = Accumulated()
    for block_a, block_b, steps in blocks:
        state.add(block_a, block_b, steps, tolerance)
    is_number = not is_name(path)
    found = TensorDiff(
        kind=kind,
        path=path,
        elements=state.elements,
        differing=state.differing,
        max_abs=state.max_abs if is_number else None,
        mean_abs=state.mean_abs if is_number else None,
        max_rel=state.max_rel if is_number else None,
        mean_rel=state.mean_rel if is_number else None,
        cosine=state.cosine if is_number else None,
        max_ulp=state.max_ulp,
        first_step=state.first_step,
        worst_step=state.worst_step,
        steps_differing=state.steps_differing,
        non_finite_a=state.non_finite_a,
        non_finite_b=state.non_finite_b,
    )
    by_step = None
    if state.steps and is_number and kind != FINAL:
        by_step = StepDistances(
            kind,
            path,
            np.concatenate(state.steps),
            np.concatenate(state.distances),
            np.concatenate(state.sizes),
        )
    return Compared(found, by_step, tuple(dict.fromkeys(damage or ())))


def _aligned(a: xr.DataArray, b: xr.DataArray, shift: int, damage: list[str]) -> Iterator[Block]:
    """Yield the rows of the steps that both arrays have, some at a time; skip what is damaged."""
    if STEP not in a.dims or STEP not in b.dims:
        try:
            yield np.asarray(a), np.asarray(b), None
        except DamagedTraceError as error:
            damage.append(str(error))
        return
    steps, rows_a, rows_b = np.intersect1d(
        np.asarray(a.coords[STEP]), np.asarray(b.coords[STEP]) - shift, return_indices=True
    )
    row_bytes = max(1, math.prod(row_shape(a)) * max(a.dtype.itemsize, b.dtype.itemsize))
    piece = max(1, _BLOCK_BYTES // row_bytes)
    chunk = a.chunks[0][0] if a.chunks else piece
    count = piece
    if count > chunk > 0:
        count -= count % chunk  # whole chunks
    else:
        count = min(chunk, max(piece, _READ_BYTES // row_bytes))
    while 0 < count < chunk and chunk % count:
        count -= 1  # or equal parts of one
    waiting = [
        slice(start, min(start + count, len(steps))) for start in range(0, len(steps), count)
    ]
    waiting.reverse()
    while waiting:
        block = waiting.pop()
        try:
            rows = _rows(a, rows_a[block]), _rows(b, rows_b[block])
        except DamagedTraceError as error:
            whole = slice(block.start, block.stop)
            if whole.stop - whole.start > chunk > 0:  # only some of its chunks are damaged
                parts = range(whole.start, whole.stop, chunk)
                waiting += [slice(s, min(s + chunk, whole.stop)) for s in reversed(parts)]
            else:
                damage.append(str(error))
            continue
        own = steps[block]
        for start in range(0, len(own), piece):
            part = slice(start, start + piece)
            yield rows[0][part], rows[1][part], own[part]


def _rows(array: xr.DataArray, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == len(rows):
        return np.asarray(array.isel({STEP: slice(first, last + 1)}))
    return np.asarray(array.isel({STEP: rows}))
