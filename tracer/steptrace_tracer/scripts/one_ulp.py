"""The neighbour of a number: the change that rounding in another way may make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_FLOATS = {"float16": np.uint16, "bfloat16": np.uint16, "float32": np.uint32, "float64": np.uint64}


def is_floating(dtype: Any) -> bool:
    """Whether numbers of a type have neighbours."""
    return str(np.dtype(dtype)) in _FLOATS


def one_ulp(values: npt.NDArray[Any], compute_dtype: str) -> npt.NDArray[Any]:
    """Return every number moved to a neighbour: its last bit is turned over.

    Whether it grows or shrinks is decided by that bit, which is as good as chance, so means hardly
    move. Zeros, infinities and NaN stay, because programs treat them as marks. Whole numbers stay.

    Parameters
    ----------
    values
        Any shape.
    compute_dtype
        Floating-point type that the model computes in. Numbers of more bits are rounded to it
        first, as the change would be lost otherwise.

    Returns
    -------
    ndarray
        Of the shape and type of `values`.

    Examples
    --------
    >>> float(one_ulp(np.float32([1.0]), "float32")[0] - 1)
    1.1920928955078125e-07
    """
    if not is_floating(values.dtype):
        return values
    narrow = np.dtype(ml_dtypes.bfloat16 if compute_dtype == "bfloat16" else compute_dtype)
    with np.errstate(over="ignore"):
        rounded = values if values.dtype.itemsize <= narrow.itemsize else values.astype(narrow)
    bits = np.ascontiguousarray(rounded).view(_FLOATS[str(rounded.dtype)])
    moved = (bits ^ bits.dtype.type(1)).view(rounded.dtype).reshape(rounded.shape)
    with np.errstate(invalid="ignore"):  # the neighbour of an infinity is a signalling NaN
        wide = rounded.astype(np.float64)
        keeps = ~np.isfinite(wide) | (wide == 0) | ~np.isfinite(moved.astype(np.float64))
    return np.where(keeps, rounded, moved).astype(values.dtype)
