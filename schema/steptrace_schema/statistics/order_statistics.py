"""Elements of given ranks of many rows of numbers, from which percentiles follow.

Compiled where the package was built with a C compiler (`_order_statistics.c`), which leaves what is
not asked for unsorted; by NumPy's sort elsewhere, and for short rows, which it sorts faster.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

try:
    from steptrace_schema.statistics._order_statistics import order_statistics as _compiled
except ImportError:  # built without a compiler
    _compiled = None  # type: ignore[assignment]

_SHORT: Final = 1_024  # elements of a row

IS_COMPILED: Final = _compiled is not None
"""Whether the compiled order statistics are in use."""

Array = npt.NDArray[Any]


def order_statistics(rows: Array, ranks: npt.NDArray[np.intp]) -> Array:
    """Return the elements of each row that have the given ranks when it is sorted.

    Parameters
    ----------
    rows
        Dims (row, element), float32 or float64, contiguous; its elements may be moved about.
    ranks
        At most 64, ascending: 0 is the smallest element. NaN is the last.

    Returns
    -------
    ndarray
        Dims (row, rank), of the type of `rows`.

    Examples
    --------
    >>> order_statistics(np.array([[3.0, -4.0, 0.5]]), np.array([0, 2]))
    array([[-4.,  3.]])
    """
    if IS_COMPILED and rows.shape[1] > _SHORT:
        return compiled_order_statistics(rows, ranks)
    return sorted_order_statistics(rows, ranks)


def compiled_order_statistics(rows: Array, ranks: npt.NDArray[np.intp]) -> Array:
    """Find them by the compiled module; takes and returns what :func:`order_statistics` does."""
    out = np.empty((len(rows), len(ranks)), rows.dtype)
    _compiled(rows, ranks, out)
    return out


def sorted_order_statistics(rows: Array, ranks: npt.NDArray[np.intp]) -> Array:
    """Find them by sorting; takes and returns what :func:`order_statistics` does."""
    rows.sort(axis=1)
    found: Array = rows[:, ranks]
    return found
