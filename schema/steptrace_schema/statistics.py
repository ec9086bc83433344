"""The statistics that every trace keeps of every recorded tensor, and how they are computed.

All are computed in float64 over all elements of one tensor at one step. NaN is a measurement:
``mean`` and the rest are NaN where an element is NaN, and ``nan`` says how many are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from steptrace_schema.names import SAMPLE_DIGEST, STATISTIC_NAMES

if TYPE_CHECKING:
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
_BLOCK: Final = 65_536  # elements; a block of float64 stays in the processor's cache


def has_statistics(spec: ArraySpec) -> bool:
    """Whether statistics are kept of the array: all but scalars, static arrays and digests."""
    return not spec.static and spec.kind != "scalars" and spec.path != SAMPLE_DIGEST


def compute_statistics(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
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
    flat = np.asarray(values).reshape(-1)
    n = flat.size
    result = np.full(len(STATISTIC_NAMES), np.nan)
    mean, squared_deviations, absolute, squares = 0.0, 0.0, 0.0, 0.0
    low, high = np.inf, -np.inf
    zeros, nans, infs = n - int(np.count_nonzero(flat)), 0, 0
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, n, _BLOCK):
            block = flat[start : start + _BLOCK].astype(np.float64)
            block_sum = float(block.sum())
            if not np.isfinite(block_sum):
                nans += int(np.isnan(block).sum())
                infs += int(np.isinf(block).sum())
            low, high = np.minimum(low, block.min()), np.maximum(high, block.max())
            absolute += float(np.abs(block).sum())
            squares += _sum_of_squares(block)
            # Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance":
            # merge the block's mean and squared deviations into those of what came before.
            block_mean = block_sum / block.size
            block -= block_mean
            delta = block_mean - mean
            total = start + block.size
            squared_deviations += (
                _sum_of_squares(block) + delta * delta * start * block.size / total
            )
            mean += delta * block.size / total
        if n:
            quantiles = np.quantile(
                flat[:: -(-n // QUANTILE_SAMPLE)].astype(np.float64), _QUANTILES
            )
            result[:4] = mean, np.sqrt(squared_deviations / n), low, high
            result[9:] = quantiles
        result[4:9] = absolute, np.sqrt(squares), zeros, nans, infs
    return result


def _sum_of_squares(block: npt.NDArray[np.float64]) -> float:
    # Not block @ block: BLAS would start threads, which here only wait for each other.
    return float(np.einsum("i,i->", block, block))
