"""Ranges of colours and axes that survive outliers, constants and values that are not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.colors import AsinhNorm, LogNorm, Normalize
from matplotlib.ticker import LogLocator, NullFormatter

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt
    from matplotlib.axis import Axis

_PERCENTILE: Final = 99.5
_FEW: Final = 200  # values; below this the largest is no outlier to be clipped
_SMALLEST, _LARGEST = 1e-30, 1e300


_UNEQUAL: Final = 30.0
"""Where the limits of steps differ by more than this factor, their colours are not linear."""

_FARTHEST: Final = 1e300
"""End of an axis: matplotlib finds no ticks beyond."""


def magnitude_limit(values: npt.NDArray[Any]) -> float:
    """Return the magnitude that at most 0.5 % of the finite values exceed; 0 where all are zero."""
    magnitudes = np.abs(finite(values))
    limit = float(magnitudes.max(initial=0.0))
    if magnitudes.size >= _FEW:
        limit = float(np.percentile(magnitudes, _PERCENTILE)) or limit
    return float(np.clip(limit, _SMALLEST, _LARGEST)) if limit else 0.0


def shared_norm(limits: Iterable[float], *, signed: bool = True) -> Normalize:
    """Return one colour range for several steps, so that their pictures compare.

    Parameters
    ----------
    limits
        The :func:`magnitude_limit` of each.
    signed
        Centre the range on 0; without it the range begins at 0.

    Returns
    -------
    Normalize
        Linear where the limits are alike. Where one step exceeds another by a factor of more than
        30, linear up to the smaller limits and logarithmic beyond, as asinh is.

    Examples
    --------
    >>> shared_norm([1.0, 4.0]).vmin
    -4.0
    """
    known = [limit for limit in limits if limit > 0]
    high = max(known, default=1.0)
    low = -high if signed else 0.0
    usual = float(np.median(known)) if known else high
    if high > _UNEQUAL * usual:
        return AsinhNorm(linear_width=usual / 2, vmin=low, vmax=high)
    return Normalize(low, high)


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
    limit = magnitude_limit(values) or 1.0
    return Normalize(-limit, limit)


def log_norm(values: npt.NDArray[Any]) -> LogNorm:
    """Return a logarithmic colour range over the positive finite values."""
    positive = finite(values)
    positive = positive[positive > 0]
    if not positive.size:
        return LogNorm(0.1, 10.0)
    low, high = float(positive.min()), float(positive.max())
    return LogNorm(low, high) if high > low else LogNorm(low / 2, high * 2)


def log_axis_range(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return a range for a logarithmic axis: that of the positive values and a tenth of it."""
    norm = log_norm(values)
    low, high = np.log10([norm.vmin or 0.1, norm.vmax or 10.0])
    pad = 0.1 * (high - low)
    return float(10 ** (low - pad)), float(10 ** (high + pad))


def set_log_ticks(axis: Axis, low: float, high: float) -> None:
    """Give a logarithmic axis ticks that stay apart: powers of ten, or three plain numbers."""
    if high > 100 * low > 0:
        axis.set_major_locator(LogLocator(numticks=6))
    else:
        places = np.geomspace(low, high, 5)[1::2]
        axis.set_ticks(list(places), [f"{place:.2g}" for place in places])
    axis.set_minor_formatter(NullFormatter())


def is_wide(values: npt.NDArray[Any]) -> bool:
    """Whether finite values are all positive and span so much that a log axis shows more."""
    known = finite(values)
    return bool(known.size and known.min() > 0 and known.max() / 30 > known.min())


def padded_range(values: npt.NDArray[Any], fraction: float = 0.05) -> tuple[float, float]:
    """Return the range of the finite values, widened on both sides; (-1, 1) where there is none.

    That of zeros alone is wide enough to be labelled without an exponent.

    Examples
    --------
    >>> padded_range(np.zeros(3))
    (-0.5, 0.5)
    """
    known = finite(values)
    if not known.size:
        return -1.0, 1.0
    low, high = float(known.min()), float(known.max())
    pad = fraction * high - fraction * low
    if low == high:
        pad = abs(high) * (fraction or 0.05) or 0.5
    low, high = max(low - pad, -_FARTHEST), min(high + pad, _FARTHEST)
    return (low, high) if low < high else (-_FARTHEST, _FARTHEST)


def finite(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the finite values, flat, as float64."""
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    return flat[np.isfinite(flat)]
