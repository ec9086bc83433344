"""Digests that name the samples of a batch by their content."""

from __future__ import annotations

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
    rows = [np.ascontiguousarray(values) for values in inputs]
    digests = np.empty(len(rows[0]), dtype=np.uint64)
    for index in range(len(digests)):
        digest = xxhash.xxh3_64()
        for values in rows:
            digest.update(values[index].tobytes())
        digests[index] = digest.intdigest()
    return digests.view(np.int64)
