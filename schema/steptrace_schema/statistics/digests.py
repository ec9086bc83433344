"""A fingerprint of 64 bits of every tensor at every step.

Two runs whose tensors are equal have equal digests. Where they part is then found in a few small
arrays, without a look at the tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

from steptrace_schema.format.layout import fill_value

if TYPE_CHECKING:
    import numpy.typing as npt

UNKNOWN_DIGEST: Final = -1
"""Stands where a tensor has no value at a step, or its digest was not computed."""


def row_digests(rows: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the digest of each row of an array.

    It is the xxh3-64 of the row's elements without padding, in C order and little-endian, and of
    their extents, as little-endian int64; read as a signed integer. What is padding is seen by the
    values alone: the elements that count are the smallest leading box of the row outside of which
    there is only the fill value. So neither a smaller row nor an array that has grown since has
    another digest.

    Parameters
    ----------
    rows
        Dims (row, ...); boolean, integer or floating point.

    Returns
    -------
    ndarray
        Dims (row,), int64.

    Examples
    --------
    >>> padded = np.array([[1.0, 2.0, np.nan]], np.float32)
    >>> row_digests(padded) == row_digests(padded[:, :2])
    array([ True])
    """
    fill = fill_value(str(rows.dtype))
    rows = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<")).reshape(rows.shape)
    # A row whose last element is a value has no padding, which is the common case.
    whole = rows.size > 0 and ~_is_fill(rows.reshape(len(rows), -1)[:, -1], fill)
    shape = np.array(rows.shape[1:], "<i8").tobytes()
    found = np.empty(len(rows), np.uint64)
    for number in range(len(rows)):
        row = rows[number, ...]
        if whole is False or not whole[number]:
            extents = _extents(row, fill)
            row = np.ascontiguousarray(row[tuple(slice(0, n) for n in extents)]).reshape(extents)
            digest = xxhash.xxh3_64(row.data if row.size else b"")
            digest.update(np.array(extents, "<i8").tobytes())
        else:
            digest = xxhash.xxh3_64(row.data)
            digest.update(shape)
        found[number] = digest.intdigest()
    return found.view(np.int64)


def _extents(row: npt.NDArray[Any], fill: Any) -> tuple[int, ...]:
    """Return the extents of the smallest leading box outside of which there is only `fill`."""
    if row.size == 0:
        return (0,) * row.ndim
    held = ~_is_fill(row, fill)
    axes = range(row.ndim)
    along = (held.any(axis=tuple(a for a in axes if a != axis)) for axis in axes)
    return tuple(int(np.flatnonzero(some)[-1]) + 1 if some.any() else 0 for some in along)


def _is_fill(values: Any, fill: Any) -> Any:
    return np.isnan(values) if isinstance(fill, float) else np.equal(values, fill)
