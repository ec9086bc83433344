"""The statistics that every trace keeps of every recorded tensor, and how they are computed.

All are computed in float64 over all elements of one tensor at one step. NaN is a measurement:
``mean`` and the rest are NaN where an element is NaN, and ``nan`` says how many are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from steptrace_schema.names import (
    RECORDED_ID,
    SAMPLE_DIGEST,
    SAMPLE_ID,
    SAMPLE_REPLICA,
    STATISTIC_NAMES,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_schema.layout import ArraySpec

DEFINITIONS: Final[dict[str, str]] = {
    "mean": "arithmetic mean",
    "std": "population standard deviation (divisor n)",
    "min": "smallest element",
    "max": "largest element",
    "l1": "sum of absolute values",
    "l2": "square root of the sum of squares",
    "zeros": "number of elements equal to zero",
    "nan": "number of NaN elements",
    "inf": "number of infinite elements",
    "p01": "1st percentile",
    "p05": "5th percentile",
    "p25": "25th percentile",
    "p50": "median",
    "p75": "75th percentile",
    "p95": "95th percentile",
    "p99": "99th percentile",
}
"""What each statistic means; the specification prints this table."""

QUANTILE_SAMPLE: Final = 16_384
"""Percentiles are taken over every ceil(n / QUANTILE_SAMPLE)-th of a tensor's n elements."""

_QUANTILES: Final = np.array([0.01, 0.05, 0.25, 0.50, 0.75, 0.95, 0.99])
_COLUMNS: Final = 8_192  # elements of a row taken at once; BLAS starts threads for more
_BLOCK: Final = 32_768  # elements taken at once; as float64 they stay in the processor's cache
_CANCELLED: Final = 1e-3  # of the sum of squares: less than that, and too many digits are lost

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]


def has_statistics(spec: ArraySpec) -> bool:
    """Whether statistics are kept of the array: of all that is neither one number nor a name."""
    if spec.static or spec.kind in ("scalars", "validation"):
        return False
    if spec.kind == "logged" and not spec.shape:
        return False
    return spec.path not in (SAMPLE_DIGEST, SAMPLE_REPLICA, SAMPLE_ID, RECORDED_ID)


def compute_statistics(values: Array) -> Float64:
    """Compute the statistics of one tensor.

    Parameters
    ----------
    values
        Any shape; boolean, integer or floating point.

    Returns
    -------
    ndarray
        Dims (statistic,), float64, in the order of `names.STATISTIC_NAMES`. Percentiles are linear
        interpolations (NumPy's default) over every ceil(n / 16384)-th element in C order. For an
        empty tensor all but the sums and counts are NaN.

    Examples
    --------
    >>> dict(zip(STATISTIC_NAMES, compute_statistics(np.array([3.0, 0.0, -4.0]))))["l2"]
    np.float64(5.0)
    """
    (statistics,) = compute_row_statistics(np.asarray(values)[np.newaxis])
    result: Float64 = statistics
    return result


def compute_row_statistics(values: Array, minus: Array | None = None) -> Float64:
    """Compute the statistics of each row of `values`, or of each row of ``values - minus``.

    Many rows at once take far less time than one by one where rows are small, and the difference
    is never held in memory as a whole.

    Parameters
    ----------
    values
        Dims (row, ...); boolean, integer or floating point.
    minus
        What to subtract, of the same shape and type; the difference has that type too.

    Returns
    -------
    ndarray
        Dims (row, statistic), float64; row r is ``compute_statistics`` of row r.
    """
    rows = _as_matrix(values)
    others = None if minus is None else _as_matrix(minus)
    result = np.full((len(rows), len(STATISTIC_NAMES)), np.nan)
    n = rows.shape[1]
    if n == 0:
        result[:, 4:9] = 0
        return result
    # NaN and infinity are measurements; inf - inf is NaN, which is the answer.
    with np.errstate(invalid="ignore", over="ignore"):
        height = max(1, _BLOCK // min(n, _COLUMNS))
        stride = -(-n // QUANTILE_SAMPLE)
        for start in range(0, len(rows), height):
            part = slice(start, start + height)  # few enough to be in the cache both times
            result[part, :9] = _moments(rows[part], None if others is None else others[part])
            sample = rows[part, ::stride]
            if others is not None:
                sample = sample - others[part, ::stride]
            result[part, 9:] = _percentiles(sample)
    return result


def _as_matrix(values: Array) -> Array:
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _moments(rows: Array, others: Array | None) -> Float64:
    """Return mean, std, min, max, l1, l2, zeros, nan and inf, dims (row, 9)."""
    height, n = rows.shape
    total, squares, absolute, zeros, nans, infs = np.zeros((6, height))
    low, high = np.full(height, np.inf), np.full(height, -np.inf)
    exact_buffer = np.empty((height, min(n, _COLUMNS)))
    for block in _blocks(rows, others):
        exact = exact_buffer[:, : block.shape[1]]
        np.copyto(exact, block)
        # The extremes and zeros of float32 are the same before, and found in half the time.
        plain = block if block.dtype == np.float32 else exact
        np.minimum(low, plain.min(axis=1), out=low)
        np.maximum(high, plain.max(axis=1), out=high)
        zeros += [np.count_nonzero(row) for row in plain == 0]  # slow along an axis
        block_total = exact.sum(axis=1)
        if not np.isfinite(block_total).all():
            nans += np.isnan(exact).sum(axis=1)
            infs += np.isinf(exact).sum(axis=1)
        total += block_total
        squares += _squares(exact)
        absolute += np.abs(exact, out=exact).sum(axis=1)
    mean = total / n
    deviations = squares - total * mean
    cancelled = ~(deviations > _CANCELLED * squares)  # also where NaN
    if cancelled.any():
        minus = None if others is None else others[cancelled]
        deviations[cancelled] = _squared_deviations(rows[cancelled], minus, mean[cancelled])
    return np.stack(
        [mean, np.sqrt(deviations / n), low, high, absolute, np.sqrt(squares), zeros, nans, infs],
        axis=1,
    )


def _squared_deviations(rows: Array, others: Array | None, mean: Float64) -> Float64:
    """Sum the squared deviations from a mean that is itself rounded: the corrected two-pass sum."""
    squares, rest = np.zeros(len(rows)), np.zeros(len(rows))
    for block in _blocks(rows, others):
        deviation = block.astype(np.float64) - mean[:, np.newaxis]
        squares += _squares(deviation)
        rest += deviation.sum(axis=1)
    corrected: Float64 = np.maximum(squares - rest * rest / rows.shape[1], 0)
    return corrected


def _blocks(rows: Array, others: Array | None) -> Iterator[Array]:
    """Yield ``rows - others``, dims (row, element), some columns at a time."""
    for start in range(0, rows.shape[1], _COLUMNS):
        block = rows[:, start : start + _COLUMNS]
        yield block if others is None else block - others[:, start : start + _COLUMNS]


def _squares(block: Float64) -> Float64:
    # A product of a row and a column for each row: many times faster than other ways to sum
    # squares, and short enough that BLAS starts no threads, which here only wait for each other.
    squares: Float64 = np.matmul(block[:, np.newaxis, :], block[:, :, np.newaxis])[:, 0, 0]
    return squares


def _percentiles(sample: Array) -> Float64:
    """Return the percentiles of each row, dims (row, 7): NumPy's definition, by sorting."""
    exact = sample if sample.dtype == np.float32 else sample.astype(np.float64)
    ordered = np.sort(exact, axis=1)  # NaN comes last
    position = _QUANTILES * (ordered.shape[1] - 1)
    below = np.floor(position).astype(np.intp)
    above = np.minimum(below + 1, ordered.shape[1] - 1)
    weight = position - below
    low, high = ordered[:, below].astype(np.float64), ordered[:, above].astype(np.float64)
    step = high - low
    # Counted from the nearer neighbour, so that the result never passes the farther one.
    result: Float64 = np.where(weight < 0.5, low + step * weight, high - step * (1 - weight))
    result[np.isnan(ordered[:, -1])] = np.nan
    return result
