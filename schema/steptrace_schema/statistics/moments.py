"""The moments of many rows of numbers: sums, extremes and counts, from which statistics follow.

The sums are compiled where the package was built with a C compiler (`_describe.c`), which takes one
pass instead of eight; by NumPy elsewhere. The two add in another order, so last bits may differ
between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

try:
    from steptrace_schema.statistics._describe import row_sums as _compiled_row_sums
except ImportError:  # built without a compiler
    _compiled_row_sums = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

_COLUMNS: Final = 8_192  # elements of a row taken at once; BLAS starts threads for more
_AT_ONCE: Final = 2**20  # elements of rows that are copied at once
_CANCELLED: Final = 1e-3  # of the sum of squares: less than that, and too many digits are lost

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

SUMS: Final = 6
"""How many sums there are of each row."""

IS_COMPILED: Final = _compiled_row_sums is not None
"""Whether the compiled sums are in use."""


def row_sums(rows: Array, minus: Array | None) -> Float64:
    """Return the sums of each row of `rows`, or of each row of ``rows - minus``.

    Parameters
    ----------
    rows
        Dims (row, element), with at least one element; float32 or float64.
    minus
        What to subtract, of the same shape and type; the difference has that type too.

    Returns
    -------
    ndarray
        Dims (row, 6), float64: sum, sum of squares, sum of absolute values, min, max and zeros; of
        rows with a NaN, its neighbours decide about min and max.

    Examples
    --------
    >>> row_sums(np.array([[3.0, -4.0, 0.0]]), None)
    array([[-1., 25.,  7., -4.,  3.,  1.]])
    """
    return compiled_sums(rows, minus) if IS_COMPILED else numpy_sums(rows, minus)


def moments(sums: Float64, rows: Array, minus: Array | None) -> Float64:
    """Return the moments that follow from the sums of rows.

    Parameters
    ----------
    sums
        Of each row, dims (row, 6), as :func:`row_sums` returns them.
    rows, minus
        What they are the sums of, for those rows whose sums do not say enough.

    Returns
    -------
    ndarray
        Dims (row, 9), float64: mean, std, min, max, l1, l2, zeros, nan and inf, as
        `statistics.DEFINITIONS` says.
    """
    n = rows.shape[1]
    total, squares, absolute, low, high, zeros = sums.T.copy()
    nans, infs = np.zeros((2, len(rows)))
    for row in np.flatnonzero(~np.isfinite(total)):
        values = rows[row] if minus is None else rows[row] - minus[row]
        nans[row], infs[row] = np.isnan(values).sum(), np.isinf(values).sum()
    low[nans > 0] = high[nans > 0] = np.nan
    mean = total / n
    deviations = squares - total * mean
    cancelled = np.flatnonzero(~(deviations > _CANCELLED * squares))  # also where NaN
    height = max(1, _AT_ONCE // n)
    for part in (cancelled[start : start + height] for start in range(0, len(cancelled), height)):
        others = None if minus is None else minus[part]
        deviations[part] = _squared_deviations(rows[part], others, mean[part])
    columns = (mean, np.sqrt(deviations / n), low, high, absolute, np.sqrt(squares))
    return np.stack([*columns, zeros, nans, infs], axis=1)


def compiled_sums(rows: Array, minus: Array | None) -> Float64:
    """Sum by the compiled module; takes and returns what :func:`row_sums` does."""
    out = np.empty((len(rows), SUMS))
    others = None if minus is None else np.require(minus, requirements=["C", "A"])
    _compiled_row_sums(np.require(rows, requirements=["C", "A"]), others, out)
    return out


def numpy_sums(rows: Array, minus: Array | None) -> Float64:
    """Sum by NumPy; takes and returns what :func:`row_sums` does."""
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
