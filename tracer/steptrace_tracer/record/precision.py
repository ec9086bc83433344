"""Rounding numbers to fewer bits, so that they take less space."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

_MANTISSA: Final = {np.dtype("float16"): 10, np.dtype("float32"): 23, np.dtype("float64"): 52}


def rounded(values: npt.NDArray[Any], keep_bits: int) -> npt.NDArray[Any]:
    """Return floating-point numbers with `keep_bits` bits of mantissa, the rest zero.

    Rounds to the nearest, and to even between two, as IEEE 754 does; what is not a number, or
    infinite, stays so. Numbers that have no more bits are returned as they are.

    Parameters
    ----------
    values
        Any shape; float16, float32 or float64, other types are returned as they are.
    keep_bits
        Bits of the mantissa to keep, 1 or more.

    Examples
    --------
    >>> rounded(np.array([1.0, 1.26], np.float32), 2)
    array([1.  , 1.25], dtype=float32)
    """
    mantissa = _MANTISSA.get(values.dtype)
    if mantissa is None or keep_bits >= mantissa:
        return values
    bits = np.ascontiguousarray(values).view(f"u{values.itemsize}").reshape(values.shape)
    one = bits.dtype.type(1)
    drop = bits.dtype.type(mantissa - keep_bits)
    half = (one << (drop - one)) - one + ((bits >> drop) & one)
    # A carry out of the mantissa raises the exponent, which is what rounding up means there.
    result = (bits + half) >> drop << drop
    return np.where(np.isfinite(values), result.view(values.dtype), values)


def is_rounded(dtype: str, keep_bits: int) -> bool:
    """Whether :func:`rounded` changes numbers of `dtype`."""
    return keep_bits < _MANTISSA.get(np.dtype(dtype), 0)
