"""Ranges of colours and axes that survive outliers, constants and values that are not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.colors import LogNorm, Normalize

if TYPE_CHECKING:
    import numpy.typing as npt

_PERCENTILE: Final = 99.5
_FEW: Final = 200  # values; below this the largest is no outlier to be clipped
_SMALLEST, _LARGEST = 1e-30, 1e300


def symmetric_norm(values: npt.NDArray[Any]) -> Normalize:
    """Return a colour range centred on 0 that the largest 0.5 % of magnitudes may exceed.

    Parameters
    ----------
    values
        Any shape; values that are not finite are left out.

    Returns
    -------
    Normalize
        From -limit to limit; 1 is the limit where all values are zero or not finite.

    Examples
    --------
    >>> symmetric_norm(np.array([-3.0, 1.0, np.nan])).vmin
    -3.0
    """
    magnitudes = np.abs(finite(values))
    limit = float(magnitudes.max(initial=0.0))
    if magnitudes.size >= _FEW:
        limit = float(np.percentile(magnitudes, _PERCENTILE)) or limit
    limit = float(np.clip(limit, _SMALLEST, _LARGEST)) if limit else 1.0
    return Normalize(-limit, limit)


def log_norm(values: npt.NDArray[Any]) -> LogNorm:
    """Return a logarithmic colour range over the positive finite values."""
    positive = finite(values)
    positive = positive[positive > 0]
    if not positive.size:
        return LogNorm(0.1, 10.0)
    low, high = float(positive.min()), float(positive.max())
    return LogNorm(low, high) if high > low else LogNorm(low / 2, high * 2)


def is_wide(values: npt.NDArray[Any]) -> bool:
    """Whether finite values are all positive and span so much that a log axis shows more."""
    known = finite(values)
    return bool(known.size and known.min() > 0 and known.max() > 30 * known.min())


def padded_range(values: npt.NDArray[Any], fraction: float = 0.05) -> tuple[float, float]:
    """Return the range of the finite values, widened on both sides; (-1, 1) where there is none."""
    known = finite(values)
    if not known.size:
        return -1.0, 1.0
    low, high = float(known.min()), float(known.max())
    pad = fraction * (high - low) or max(abs(high) * fraction, 1e-12)
    return low - pad, high + pad


def finite(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the finite values, flat, as float64."""
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    return flat[np.isfinite(flat)]
