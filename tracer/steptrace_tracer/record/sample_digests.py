"""Digests that name the samples of a batch by their content."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xxhash

if TYPE_CHECKING:
    from collections.abc import Sequence


def sample_digests(inputs: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    """Return the xxh3-64 digest of each sample.

    Parameters
    ----------
    inputs
        The model's inputs, each with dims (batch, ...); the bytes of a sample are those of its row
        in each input, one after the other, in C order.

    Returns
    -------
    ndarray
        Dims (batch,), int64: the unsigned digest, read as a signed integer.

    Examples
    --------
    >>> a = sample_digests([np.zeros((3, 2), np.float32)])
    >>> bool((a == a[0]).all())
    True
    """
    parts = [_as_bytes(values) for values in inputs]
    rows = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    digests = [xxhash.xxh3_64_intdigest(row.data) for row in rows]
    return np.array(digests, dtype=np.uint64).view(np.int64)


def _as_bytes(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    rows = np.ascontiguousarray(values).reshape(len(values), math.prod(values.shape[1:]))
    return rows.view(np.uint8)
