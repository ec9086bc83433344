"""How far tensors of several runs are apart at each step, and in relation to what is normal."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_analyzer.differences.verdict import ROUNDING
from steptrace_analyzer.trace.absent import absent_rows
from steptrace_analyzer.trace.open import trace_attributes
from steptrace_analyzer.trace.select import get_tensor, has_tensor
from steptrace_schema.names import ATTRIBUTES_KEY, STEP

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    import xarray as xr

    from steptrace_schema.names import Kind

    _Rows = npt.NDArray[np.float64]
    Ratios = tuple[npt.NDArray[np.int64], _Rows, str, str]
    """Steps, ratio at each of them, tensor, and the run that is farther."""

_AHEAD: Final = 5
"""Steps by which the noise of one run may begin before that of the repeats."""

_BLOCK_BYTES: Final = 8 * 2**20


@dataclasses.dataclass(frozen=True)
class Distances:
    """One tensor, step by step: how far those that are tested are apart, and how far is normal."""

    steps: npt.NDArray[np.int64]
    apart: _Rows
    noise: _Rows
    is_large: npt.NDArray[np.bool_]
    """Whether the first two runs are farther apart than rounding makes them."""
    differ: bool
    """Whether the first two runs differ at all."""


def common_arrays(runs: Sequence[xr.DataTree], kind: Kind, path: str) -> list[xr.DataArray] | None:
    """Return a tensor of every run, steps with a value; None where one has none of the shape."""
    if not all(has_tensor(run, kind, path) for run in runs):
        return None
    arrays = [_with_value(run, kind, path) for run in runs]
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1 or any(array.dims[:1] != (STEP,) for array in arrays):
        return None
    return arrays if all(array.dtype.kind == "f" for array in arrays) else None


def _with_value(run: xr.DataTree, kind: Kind, path: str) -> xr.DataArray:
    array = get_tensor(run, kind, path)
    if ATTRIBUTES_KEY not in run.attrs or array.dims[:1] != (STEP,):
        return array
    absent = absent_rows(trace_attributes(run)).get((kind, path), {})
    if not absent:
        return array
    steps = np.asarray(array.coords[STEP])
    return array.isel({STEP: np.flatnonzero(~np.isin(steps, list(absent)))})


def distances_of(
    arrays: Sequence[xr.DataArray], tested: tuple[int, int], pairs: Sequence[tuple[int, int]]
) -> Distances:
    """Measure the distance of the tested pair, and the largest of the others."""
    steps = np.asarray(arrays[0].coords[STEP])
    for array in arrays[1:]:
        steps = np.intersect1d(steps, np.asarray(array.coords[STEP]))
    apart, noise, large = np.zeros(len(steps)), np.zeros(len(steps)), np.zeros(len(steps), bool)
    differ = False
    for part in _blocks(arrays[0], len(steps)):
        labels = {STEP: steps[part]}
        rows = [np.asarray(x.sel(labels)).reshape(part.stop - part.start, -1) for x in arrays]
        apart[part] = _rms(rows[tested[0]], rows[tested[1]])
        large[part] = _is_large(rows[0], rows[1])
        differ |= bool((_rms(rows[0], rows[1]) != 0).any())
        for one, other in pairs:
            noise[part] = np.fmax(noise[part], _rms(rows[one], rows[other]))
    return Distances(steps, apart, noise, large, differ)


def _blocks(array: xr.DataArray, count: int) -> Iterator[slice]:
    row = max(1, int(np.prod(array.shape[1:], dtype=np.int64)) * array.dtype.itemsize)
    size = max(1, _BLOCK_BYTES // row)
    yield from (slice(start, min(start + size, count)) for start in range(0, count, size))


def _rms(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> _Rows:
    """Return the root mean square of the difference of each row; infinite where only one is NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = a.astype(np.float64) - b.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        difference[same] = 0.0
        found = np.sqrt(np.mean(np.square(difference), axis=1))
    return np.where(np.isnan(found), np.inf, found)


def _is_large(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.fmax(np.abs(a), np.abs(b)).max(axis=1, initial=0)
        apart = np.abs(a.astype(np.float64) - b.astype(np.float64)).max(axis=1, initial=0)
        within = apart <= ROUNDING * np.spacing(size.astype(a.dtype)).astype(np.float64)
    same = ((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=1)
    return np.asarray(~(within | same))


def ratio_of(apart: _Rows, noise: _Rows, is_large: npt.NDArray[np.bool_]) -> _Rows:
    """Return distance over noise; the noise of a step is the largest so far, and a little later."""
    level = np.maximum.accumulate(noise)
    ahead = np.concatenate([level[_AHEAD:], np.full(min(_AHEAD, len(level)), level[-1])])
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(apart > 0, apart / ahead, 0.0)
    return np.where(is_large, np.nan_to_num(found, nan=0.0, posinf=np.inf), 0.0)


def worst_of(ratios: Sequence[Ratios], factor: float) -> tuple[int, str, float, str] | None:
    """Return the first step beyond the factor and its worst tensor, else the worst of all."""
    beyond = [int(steps[row > factor][0]) for steps, row, *_ in ratios if (row > factor).any()]
    first = min(beyond) if beyond else None
    best: tuple[int, str, float, str] | None = None
    for steps, row, name, farther in ratios:
        chosen = row if first is None else np.where(steps == first, row, -1.0)
        at = int(np.argmax(chosen))
        if best is None or chosen[at] > best[2]:
            best = int(steps[at]), name, float(chosen[at]), farther
    return best
