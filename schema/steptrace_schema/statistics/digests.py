"""A fingerprint of 64 bits of every tensor at every step.

Two runs whose tensors are equal have equal digests. Where they part is then found in a few small
arrays, without a look at the tensors.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

from steptrace_schema.format.layout import fill_value

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    rows = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<")).reshape(rows.shape)
    hasher = RowHasher(rows.shape[1:], rows.dtype)
    found = np.fromiter((hasher.digest(row) for row in _each(rows)), np.uint64, len(rows))
    return found.view(np.int64)


def _each(rows: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    return (rows[number, ...] for number in range(len(rows)))


class RowHasher:
    """Digests of rows of one shape and type, one row at a time.

    A row that was just read is in the processor's cache, where it is hashed several times as fast
    as later, when all rows are there.

    Parameters
    ----------
    shape, dtype
        Of a row.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._fill = fill_value(str(dtype))
        self._is_nan = isinstance(self._fill, float)
        self._last = math.prod(shape) - 1
        self._extents = np.array(shape, "<i8").tobytes()

    def digest(self, row: npt.NDArray[Any]) -> int:
        """Return the digest of a row that is contiguous and little-endian, as :func:`row_digests`.

        It is unsigned; traces hold the same 64 bits as a signed integer.
        """
        # A row whose last element is a value has no padding, which is the common case.
        if self._last >= 0:
            value = row.item(self._last)
            if not (value != value if self._is_nan else value == self._fill):
                found = xxhash.xxh3_64(row.data)
                found.update(self._extents)
                return found.intdigest()
        extents = _extents(row, self._fill)
        part = np.ascontiguousarray(row[tuple(slice(0, n) for n in extents)]).reshape(extents)
        found = xxhash.xxh3_64(part.data if part.size else b"")
        found.update(np.array(extents, "<i8").tobytes())
        return found.intdigest()


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
