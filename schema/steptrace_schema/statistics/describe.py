"""The statistics that every trace keeps of every recorded tensor, and how they are computed.

All are computed in float64 over all elements of one tensor at one step. NaN is a measurement:
``mean`` and the rest are NaN where an element is NaN, and ``nan`` says how many are.

Compiled where the package was built with a C compiler (`_describe.c`), which takes a row once, and
leaves what no percentile asks for unsorted; by NumPy elsewhere. The two add in another order, so
last bits may differ between them.
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
    SAMPLE_STATISTICS,
    STATISTIC_NAMES,
)
from steptrace_schema.statistics.moments import IS_COMPILED, moments, numpy_sums

try:
    from steptrace_schema.statistics._describe import describe_rows as _compiled
except ImportError:  # built without a compiler
    _compiled = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_schema.format.layout import ArraySpec

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
_PERCENTILES: Final = len(_QUANTILES)
_BLOCK: Final = 65_536  # elements taken at once, where rows have not more: they stay in the cache

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]


def has_statistics(spec: ArraySpec) -> bool:
    """Whether statistics are kept of the array: of all that is neither one number nor a name."""
    if spec.static or spec.kind in ("scalars", "validation"):
        return False
    if spec.kind == "logged" and not spec.shape:
        return False
    return spec.path not in _UNDESCRIBED


_UNDESCRIBED: Final = (SAMPLE_DIGEST, SAMPLE_REPLICA, SAMPLE_ID, SAMPLE_STATISTICS, RECORDED_ID)


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
    if rows.shape[1] == 0:
        result = np.full((len(rows), len(STATISTIC_NAMES)), np.nan)
        result[:, 4:9] = 0
        return result
    # NaN and infinity are measurements; inf - inf is NaN, which is the answer.
    with np.errstate(invalid="ignore", over="ignore"):
        if rows.dtype in (np.float32, np.float64):
            return _describe(rows, others)
        result = np.empty((len(rows), len(STATISTIC_NAMES)))
        for part in _parts(rows):
            block = rows[part] if others is None else rows[part] - others[part]
            result[part] = _describe(block.astype(np.float64), None)
        return result


def _describe(rows: Array, minus: Array | None) -> Float64:
    """Return the statistics of float32 or float64 rows."""
    stride = -(-rows.shape[1] // QUANTILE_SAMPLE)
    describe = compiled_statistics if IS_COMPILED else numpy_statistics
    return describe(rows, minus, stride)


def compiled_statistics(rows: Array, minus: Array | None, stride: int) -> Float64:
    """Describe rows by the compiled module, one after the other.

    Parameters
    ----------
    rows, minus
        As :func:`compute_row_statistics` takes them, with two dimensions; float32 or float64.
    stride
        Every so-many-th element is looked at for the percentiles.

    Returns
    -------
    ndarray
        Dims (row, statistic), float64.
    """
    result = np.empty((len(rows), len(STATISTIC_NAMES)))
    others = None if minus is None else np.require(minus, requirements=["C", "A"])
    _compiled(np.require(rows, requirements=["C", "A"]), others, stride, _QUANTILES, result)
    return result


def numpy_statistics(rows: Array, minus: Array | None, stride: int) -> Float64:
    """Describe rows by NumPy; takes and returns what :func:`compiled_statistics` does."""
    result = np.empty((len(rows), len(STATISTIC_NAMES)))
    for part in _parts(rows):
        own, others = rows[part], None if minus is None else minus[part]
        result[part, :-_PERCENTILES] = moments(numpy_sums(own, others), own, others)
        sample = own[:, ::stride] if others is None else own[:, ::stride] - others[:, ::stride]
        percentiles = np.quantile(sample.astype(np.float64), _QUANTILES, axis=1)
        result[part, -_PERCENTILES:] = percentiles.T
    return result


def _parts(rows: Array) -> Iterator[slice]:
    """Yield a few rows at a time, so that they are still in the cache when they are used again."""
    height = max(1, _BLOCK // rows.shape[1])
    yield from (slice(start, start + height) for start in range(0, len(rows), height))


def _as_matrix(values: Array) -> Array:
    return values.reshape(len(values), math.prod(values.shape[1:]))
