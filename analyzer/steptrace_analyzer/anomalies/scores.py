"""How unusual a value is against its own recent history, robustly.

The score is a robust z: ``(value - median) / max(1.4826 * MAD, floor)`` over a trailing window that
ends before the value (Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993). Sizes are
scored as logarithms, so that "ten times as large" weighs the same at any scale.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

WINDOW: Final = 50
"""Recorded steps of history that a value is compared with."""
MIN_HISTORY: Final = 10
"""With fewer values of history than this there is no score."""
LOG_FLOOR: Final = 0.2
"""Least spread of a logarithm: however quiet the history, a z of 8 means at least 5 times."""

_MAD_TO_STD: Final = 1.4826  # of a normal distribution
_STRIDE: Final = 8  # rows that one bound on the median serves
_BLOCK: Final = 2**22  # window elements sorted at a time


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of a (step, series) array; NaN where there is too little history, or no value."""

    z: npt.NDArray[np.float64]
    median: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]


def trailing_scores(values: npt.NDArray[np.float64], floor: float = LOG_FLOOR) -> Scores:
    """Score every value against the `WINDOW` values of its series before it.

    Parameters
    ----------
    values
        (step, series). NaN is not a value: it has no score, and belongs to no history.
    floor
        Least spread, in the unit of `values`.

    Returns
    -------
    Scores
        Arrays of the shape of `values`.
    """
    steps, series = values.shape
    shape = (steps, series)
    result = Scores(np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan))
    padded = np.concatenate([np.full((WINDOW, series), np.nan), values])
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=0)
    count = max(1, _BLOCK // max(1, series * WINDOW))
    for start in range(0, steps, count):
        block = slice(start, min(start + count, steps))
        result.median[block], result.scale[block] = _median_and_scale(windows[block], floor)
    result.z[:] = (values - result.median) / result.scale
    return result


def high_scores(values: npt.NDArray[np.float64], least: float) -> Scores:
    """Score the values that may score `least` or more; the others are NaN.

    Most values of a long run are nothing unusual, which a bound on the median shows: within a few
    rows of a window no more than that many of its values have changed.

    Parameters
    ----------
    values
        (step, series) logarithms, as :func:`trailing_scores` takes them with its own floor.
    least
        Score of interest.
    """
    with np.errstate(invalid="ignore"):
        possible = values - _median_bounds(values) >= least * LOG_FLOOR
    rows, columns = np.nonzero(possible)
    shape = values.shape
    result = Scores(np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan))
    count = max(1, _BLOCK // WINDOW)
    for start in range(0, len(rows), count):
        row, column = rows[start : start + count], columns[start : start + count]
        before = row[:, np.newaxis] + np.arange(-WINDOW, 0)
        history = values[np.maximum(before, 0), column[:, np.newaxis]]
        median, scale = _median_and_scale(np.where(before >= 0, history, np.nan), LOG_FLOOR)
        result.median[row, column], result.scale[row, column] = median, scale
    result.z[:] = (values - result.median) / result.scale
    return result


def _median_bounds(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what the median of the window before each value is not below, (step, series)."""
    steps = len(values)
    bounds = np.full(values.shape, -np.inf)
    for start in range(0, steps, _STRIDE):
        ordered = np.sort(values[max(0, start - WINDOW) : start], axis=0)  # NaN last
        known = np.sum(~np.isnan(ordered), axis=0)
        place = (known - _STRIDE - 1) // 2 - _STRIDE
        if not len(ordered) or not (place >= 0).any():
            continue
        bound = np.take_along_axis(ordered, np.maximum(place, 0)[np.newaxis], axis=0)[0]
        bounds[start : start + _STRIDE] = np.where(place >= 0, bound, -np.inf)
    return bounds


def _median_and_scale(
    history: npt.NDArray[np.float64], floor: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return median and robust spread over the last axis; NaN where the history is too short."""
    median, known = _median(history)
    deviation, _ = _median(np.abs(history - median[..., np.newaxis]))
    enough = known >= MIN_HISTORY
    scale = np.maximum(_MAD_TO_STD * deviation, floor)
    return np.where(enough, median, np.nan), np.where(enough, scale, np.nan)


def log_sizes(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return natural logarithms; NaN for what is zero, negative or not finite."""
    valid = np.isfinite(values) & (values > 0)
    return np.log(values, out=np.full(values.shape, np.nan), where=valid)


def _median(
    windows: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Return the median over the last axis without NaN, and how many values it is of."""
    ordered = np.sort(windows, axis=-1)  # NaN last
    known = np.sum(~np.isnan(ordered), axis=-1)
    low = np.take_along_axis(ordered, np.maximum(known - 1, 0)[..., np.newaxis] // 2, axis=-1)
    high = np.take_along_axis(ordered, (known // 2)[..., np.newaxis], axis=-1)
    median = np.where(known[..., np.newaxis] > 0, (low + high) / 2, np.nan)[..., 0]
    return median, known
