"""How a series of numbers develops: recent medians, spreads, and trends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_MAD_TO_STD: Final = 1.4826  # of a normal distribution


def recent_median(values: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    """Return the median of the `count` values before each one; NaN where there are fewer.

    Examples
    --------
    >>> recent_median(np.array([1.0, 2.0, 3.0, 4.0]), 3)
    array([nan, nan, nan,  2.])
    """
    result = np.full(len(values), np.nan)
    if len(values) > count:
        windows = np.lib.stride_tricks.sliding_window_view(values, count)[:-1]
        result[count:] = np.median(windows, axis=-1)
    return result


def known_median(values: npt.NDArray[np.float64]) -> float:
    """Return the median of what is finite; NaN where nothing is.

    Examples
    --------
    >>> known_median(np.array([np.nan, 1.0, 2.0, np.inf, 6.0])), known_median(np.array([np.nan]))
    (2.0, nan)
    """
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")


def trailing_spread(residuals: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """Return the robust spread of the residuals before each one; NaN where there are none.

    1.4826 times the median of the absolute values of up to `window` residuals that are not NaN.
    """
    padded = np.concatenate([np.full(window, np.nan), np.abs(residuals)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)[: len(residuals)]
    ordered = np.sort(windows, axis=-1)  # NaN last
    known = (~np.isnan(ordered)).sum(axis=-1)
    middle = np.maximum(known - 1, 0) // 2
    medians = np.take_along_axis(ordered, middle[:, np.newaxis], axis=-1)[:, 0]
    return _MAD_TO_STD * np.where(known > 0, medians, np.nan)


def block_means(values: npt.NDArray[np.float64], blocks: int) -> npt.NDArray[np.float64]:
    """Return the means of `blocks` parts of equal length; what is left over comes first, unused.

    Means of parts are all but independent where single values are not.
    """
    length = max(1, len(values) // blocks)
    used = values[len(values) - length * (len(values) // length) :] if len(values) else values
    return np.asarray(used.reshape(-1, length).mean(axis=1)[-blocks:])


def mann_kendall(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Test for a monotonic trend.

    Parameters
    ----------
    values
        (n,), in the order of time.

    Returns
    -------
    tuple of float
        Kendall's tau, from -1 (always falling) to 1, and the two-sided p of the normal
        approximation with correction for ties (Mann 1945; Kendall 1975).

    Examples
    --------
    >>> tau, p = mann_kendall(np.arange(20.0))
    >>> tau, p < 1e-6
    (1.0, True)
    """
    n = len(values)
    if n < 4:
        return 0.0, 1.0
    signs = np.sign(values[np.newaxis, :] - values[:, np.newaxis])
    score = float(np.triu(signs, 1).sum())
    _, ties = np.unique(values, return_counts=True)
    variance = n * (n - 1) * (2 * n + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())
    if variance <= 0:
        return 0.0, 1.0
    z = (score - np.sign(score)) / math.sqrt(variance / 18)
    return score / (n * (n - 1) / 2), math.erfc(abs(z) / math.sqrt(2))
