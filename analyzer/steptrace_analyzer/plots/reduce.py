"""Showing fewer values than there are without hiding the ones that matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def largest_magnitude(values: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """Return along `axis` the value of the largest magnitude, sign kept; NaN exceeds any number.

    Examples
    --------
    >>> largest_magnitude(np.array([[1.0, -3.0], [2.0, 0.5]]), axis=1)
    array([-3.,  2.])
    """
    magnitude = np.where(np.isnan(values), np.inf, np.abs(values))
    index = np.expand_dims(magnitude.argmax(axis=axis), axis)
    return np.take_along_axis(values, index, axis=axis).squeeze(axis)


def reduce_matrix(
    matrix: npt.NDArray[Any], rows: int, columns: int
) -> tuple[npt.NDArray[Any], tuple[int, int]]:
    """Reduce a matrix to at most `rows` by `columns` blocks.

    Parameters
    ----------
    matrix
        Two-dimensional, floating point.
    rows, columns
        Most rows and columns of the result.

    Returns
    -------
    reduced
        Each element is the block's value of the largest magnitude, see :func:`largest_magnitude`.
    block
        Rows and columns of a block; (1, 1) where the matrix is returned as it is.

    Examples
    --------
    >>> reduce_matrix(np.array([[1.0, -4.0, 2.0]]), rows=1, columns=2)
    (array([[-4.,  2.]]), (1, 2))
    """
    height, width = matrix.shape
    block = max(1, -(-height // rows)), max(1, -(-width // columns))
    if block == (1, 1):
        return matrix, block
    padded = np.pad(matrix, ((0, -height % block[0]), (0, -width % block[1])))
    grid = padded.reshape(padded.shape[0] // block[0], block[0], -1, block[1])
    flat = grid.swapaxes(1, 2).reshape(grid.shape[0], grid.shape[2], -1)
    return largest_magnitude(flat, axis=2), block


def keep_largest(values: npt.NDArray[Any], count: int) -> npt.NDArray[np.intp]:
    """Choose `count` positions: half of them the largest magnitudes, the rest evenly spread.

    Parameters
    ----------
    values
        One-dimensional and finite.
    count
        How many at most.

    Returns
    -------
    ndarray
        Ascending positions; the same for the same values.

    Examples
    --------
    >>> keep_largest(np.array([0.0, 9.0, 1.0, 2.0, -8.0, 3.0]), 4)
    array([0, 1, 4, 5])
    """
    if values.size <= count:
        return np.arange(values.size)
    order = np.argsort(-np.abs(values), kind="stable")
    top, rest = order[: count // 2], np.sort(order[count // 2 :])
    spread = rest[np.linspace(0, rest.size - 1, count - top.size).astype(np.intp)]
    return np.sort(np.concatenate([top, spread]))


def envelope(values: npt.NDArray[Any], blocks: int) -> npt.NDArray[np.intp]:
    """Choose the positions that keep a long line's shape: each block's ends, extremes and gaps.

    Parameters
    ----------
    values
        One-dimensional; may hold values that are not finite.
    blocks
        Into how many blocks the line is cut. Up to five positions of each are kept.

    Returns
    -------
    ndarray
        Ascending positions; all of them where there are no more than ``5 * blocks``.
    """
    if values.size <= 5 * blocks:
        return np.arange(values.size)
    kept: list[int] = []
    for part in np.array_split(np.arange(values.size), blocks):
        known = np.isfinite(values[part])
        kept += [int(part[0]), int(part[-1])]
        if known.any():
            inside = part[known]
            kept += [int(inside[values[inside].argmin()]), int(inside[values[inside].argmax()])]
        if not known.all():
            kept.append(int(part[~known][0]))
    return np.unique(np.array(kept, dtype=np.intp))
