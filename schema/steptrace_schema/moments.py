"""The moments of many rows of numbers: sums, extremes and counts, from which statistics follow.

Compiled where the package was built with a C compiler (`_sums.c`), which takes one pass instead of
eight; by NumPy elsewhere. The two add in another order, so last bits may differ between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

try:
    from steptrace_schema._sums import row_sums as _compiled_row_sums
except ImportError:  # built without a compiler
    _compiled_row_sums = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

_COLUMNS: Final = 8_192  # elements of a row taken at once; BLAS starts threads for more
_CANCELLED: Final = 1e-3  # of the sum of squares: less than that, and too many digits are lost

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

IS_COMPILED: Final = _compiled_row_sums is not None
"""Whether the compiled sums are in use."""


def row_moments(rows: Array, minus: Array | None = None) -> Float64:
    """Return the moments of each row of `rows`, or of each row of ``rows - minus``.

    Parameters
    ----------
    rows
        Dims (row, element), with at least one element; boolean, integer or floating point.
    minus
        What to subtract, of the same shape and type; the difference has that type too.

    Returns
    -------
    ndarray
        Dims (row, 9), float64: mean, std, min, max, l1, l2, zeros, nan and inf, as
        `statistics.DEFINITIONS` says.

    Examples
    --------
    >>> row_moments(np.array([[3.0, -4.0, 0.0]]))[0, 5]
    np.float64(5.0)
    """
    if rows.dtype not in (np.float32, np.float64):
        rows = (rows if minus is None else rows - minus).astype(np.float64)
        minus = None
    # NaN and infinity are measurements; inf - inf is NaN, which is the answer.
    with np.errstate(invalid="ignore", over="ignore"):
        return _moments(rows, minus)


def _moments(rows: Array, minus: Array | None) -> Float64:
    n = rows.shape[1]
    sums = compiled_sums(rows, minus) if IS_COMPILED else numpy_sums(rows, minus)
    total, squares, absolute, low, high, zeros = sums.T
    nans, infs = np.zeros((2, len(rows)))
    for row in np.flatnonzero(~np.isfinite(total)):
        values = rows[row] if minus is None else rows[row] - minus[row]
        nans[row], infs[row] = np.isnan(values).sum(), np.isinf(values).sum()
    low[nans > 0] = high[nans > 0] = np.nan
    mean = total / n
    deviations = squares - total * mean
    cancelled = ~(deviations > _CANCELLED * squares)  # also where NaN
    if cancelled.any():
        others = None if minus is None else minus[cancelled]
        deviations[cancelled] = _squared_deviations(rows[cancelled], others, mean[cancelled])
    return np.stack(
        [mean, np.sqrt(deviations / n), low, high, absolute, np.sqrt(squares), zeros, nans, infs],
        axis=1,
    )


def compiled_sums(rows: Array, minus: Array | None) -> Float64:
    """Return the sums of each row by the compiled module.

    Parameters
    ----------
    rows, minus
        As :func:`row_moments` takes them, float32 or float64.

    Returns
    -------
    ndarray
        Dims (row, 6): sum, sum of squares, sum of absolute values, min, max, and zeros; of rows
        with a NaN, its neighbours decide about min and max.
    """
    out = np.empty((len(rows), 6))
    others = None if minus is None else np.require(minus, requirements=["C", "A"])
    _compiled_row_sums(np.require(rows, requirements=["C", "A"]), others, out)
    return out


def numpy_sums(rows: Array, minus: Array | None) -> Float64:
    """Return what :func:`compiled_sums` does, by NumPy."""
    height, n = rows.shape
    total, squares, absolute, zeros = np.zeros((4, height))
    low, high = np.full(height, np.inf), np.full(height, -np.inf)
    exact_buffer = np.empty((height, min(n, _COLUMNS)))
    for block in _blocks(rows, minus):
        exact = exact_buffer[:, : block.shape[1]]
        np.copyto(exact, block)
        # The extremes and zeros of float32 are the same before, and found in half the time.
        np.minimum(low, block.min(axis=1), out=low)
        np.maximum(high, block.max(axis=1), out=high)
        zeros += [np.count_nonzero(row) for row in block == 0]  # slow along an axis
        total += exact.sum(axis=1)
        squares += _squares(exact)
        absolute += np.abs(exact, out=exact).sum(axis=1)
    return np.stack([total, squares, absolute, low, high, zeros], axis=1)


def _squared_deviations(rows: Array, minus: Array | None, mean: Float64) -> Float64:
    """Sum the squared deviations from a mean that is itself rounded: the corrected two-pass sum."""
    squares, rest = np.zeros(len(rows)), np.zeros(len(rows))
    for block in _blocks(rows, minus):
        deviation = block.astype(np.float64) - mean[:, np.newaxis]
        squares += _squares(deviation)
        rest += deviation.sum(axis=1)
    corrected: Float64 = np.maximum(squares - rest * rest / rows.shape[1], 0)
    return corrected


def _blocks(rows: Array, minus: Array | None) -> Iterator[Array]:
    """Yield ``rows - minus``, dims (row, element), some columns at a time."""
    for start in range(0, rows.shape[1], _COLUMNS):
        block = rows[:, start : start + _COLUMNS]
        yield block if minus is None else block - minus[:, start : start + _COLUMNS]


def _squares(block: Float64) -> Float64:
    # A product of a row and a column for each row: many times faster than other ways to sum
    # squares, and short enough that BLAS starts no threads, which here only wait for each other.
    squares: Float64 = np.matmul(block[:, np.newaxis, :], block[:, :, np.newaxis])[:, 0, 0]
    return squares
