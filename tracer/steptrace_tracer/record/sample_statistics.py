"""A few numbers for every sample of a batch: how large it is, or which category it is of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from steptrace_schema.statistics.moments import moments, row_sums

if TYPE_CHECKING:
    from collections.abc import Mapping

SIZES: Final = ("rms", "mean", "largest", "nan", "inf")
"""Statistics of the elements of one sample, where they are magnitudes."""
_MIN, _MAX, _L2, _NAN, _INF = 2, 3, 5, 7, 8  # columns of `moments`
_PICTURE: Final = 3  # dimensions of one sample


def sample_statistics(
    inputs: Mapping[str, npt.NDArray[Any]], targets: Mapping[str, npt.NDArray[Any]], samples: int
) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """Return the statistics of every sample of a batch, and their names.

    Parameters
    ----------
    inputs, targets
        Path of each array to its values, dims (batch, ...); any numbers or booleans.
    samples
        How many samples the batch has.

    Returns
    -------
    names, values
        ``path/statistic`` of each column, and dims (batch, statistic), float64. What has other rows
        than the batch is NaN throughout.

    Examples
    --------
    >>> names, values = sample_statistics({"x": np.float32([[3, -4]])}, {"y": np.array([7])}, 1)
    >>> dict(zip(names, values[0].tolist()))["x/largest"], names[-1], values[0, -1].item()
    (4.0, 'y/category', 7.0)
    """
    names: list[str] = []
    columns: list[npt.NDArray[np.float64]] = []
    for arrays, are_targets in ((inputs, False), (targets, True)):
        for path, values in arrays.items():
            own, found = _of(values, are_targets=are_targets)
            names += [f"{path}/{name}" for name in own]
            columns.append(found if len(found) == samples else np.full((samples, len(own)), np.nan))
    return tuple(names), np.concatenate(columns, axis=1) if columns else np.zeros((samples, 0))


def _of(
    values: npt.NDArray[Any], *, are_targets: bool
) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """Return the statistics of one array, and their names."""
    rows = np.ascontiguousarray(values).reshape(len(values), math.prod(values.shape[1:]))
    if _are_categories(values, are_targets=are_targets):
        if rows.shape[1] == 1:
            return ("category",), rows.astype(np.float64)
        if not rows.shape[1]:
            return ("min", "max"), np.full((len(rows), 2), np.nan)
        ends = np.stack([rows.min(axis=1), rows.max(axis=1)], axis=1)
        return ("min", "max"), ends.astype(np.float64)
    if not rows.size:
        return SIZES, np.full((len(rows), len(SIZES)), np.nan)
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float32 if rows.itemsize <= 2 else np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        found = moments(row_sums(rows, None), rows, None)
        largest = np.maximum(np.abs(found[:, _MIN]), np.abs(found[:, _MAX]))
        size = found[:, _L2] / math.sqrt(rows.shape[1])
    return SIZES, np.stack([size, found[:, 0], largest, found[:, _NAN], found[:, _INF]], axis=1)


def _are_categories(values: npt.NDArray[Any], *, are_targets: bool) -> bool:
    """Whether whole numbers are names of categories, rather than the pixels of a picture."""
    if values.dtype.kind not in "biu":
        return False
    features = values.ndim - 1
    is_picture = features >= _PICTURE or (features == 2 and values.dtype == np.uint8)
    return are_targets or not is_picture
