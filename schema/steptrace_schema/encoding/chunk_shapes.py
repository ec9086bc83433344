"""How arrays are cut into chunks and shards."""

from __future__ import annotations

import math
from typing import Final

MIN_SHARD_STEPS: Final = 8


MAX_SHARD_STEPS: Final = 256


SHARD_BYTES: Final = 128 * 2**20
"""Raw bytes of records that are gathered before they are moved into the store."""


POINT_READ = 8  # a read of one step, or of one unit, may decode so many where that is little gain


SMOOTH_POINT_READ = 16  # and so many where neighbouring steps are alike, so that it is half gained


_SMALL_CHUNK = 64 * 2**10


_LARGEST_CHUNK = 4 * 2**20


_LARGEST_SHARD = 16 * 2**20


def shard_steps_for(step_bytes: int) -> int:
    """Return how many steps a shard spans when one step's tensors take `step_bytes` raw bytes.

    A power of two between 8 and 256, so that shards stay few for small models and the journal
    stays short for large ones.

    Examples
    --------
    >>> shard_steps_for(61_000_000), shard_steps_for(2_000_000), shard_steps_for(1)
    (8, 64, 256)
    """
    wanted = max(1, SHARD_BYTES // max(1, step_bytes))
    return int(min(MAX_SHARD_STEPS, max(MIN_SHARD_STEPS, 2 ** int(math.log2(wanted)))))


def chunk_shape(
    row_shape: tuple[int, ...], itemsize: int, shard_steps: int, point_read: int = POINT_READ
) -> tuple[int, ...]:
    """Return the chunk shape (step, ...) of an array with rows of `row_shape`.

    Chunks span few steps, and few units of the last axis, so that "this tensor at step t" and "this
    unit over all steps" both decode little more than they return; but no chunk is made smaller than
    64 KiB for that.

    Parameters
    ----------
    row_shape, itemsize
        Shape of a row, and bytes of an element.
    shard_steps
        Steps that one shard spans.
    point_read
        How many steps, and units, a chunk spans where that is more than 64 KiB.
    """
    row_bytes = max(1, math.prod(row_shape)) * itemsize
    steps = min(point_read, shard_steps)
    while steps < shard_steps and steps * row_bytes < _SMALL_CHUNK:
        steps *= 2
    extents = [max(1, n) for n in row_shape]
    if extents:
        unit_bytes = max(1, steps * row_bytes // extents[-1])
        units = max(point_read, -(-_SMALL_CHUNK // unit_bytes))
        extents[-1] = -(-extents[-1] // -(-extents[-1] // units))
    for axis in range(len(extents) - 1):
        while steps * math.prod(extents) * itemsize > _LARGEST_CHUNK and extents[axis] > 1:
            extents[axis] = -(-extents[axis] // 2)
    return (steps, *extents)


def shard_shape(
    row_shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int, shard_steps: int
) -> tuple[int, ...]:
    """Return the shard shape (step, ...): whole rows, or a part of them where rows are large.

    A shard is encoded in memory as a whole, so its size bounds what the recorder needs.
    """
    counts = [-(-max(1, n) // c) for n, c in zip(row_shape, chunks[1:], strict=True)]
    chunk_bytes = math.prod(chunks[1:]) * shard_steps * itemsize
    for axis in range(len(counts)):
        while chunk_bytes * math.prod(counts) > _LARGEST_SHARD and counts[axis] > 1:
            counts[axis] = -(-counts[axis] // 2)
    return (shard_steps, *(n * c for n, c in zip(counts, chunks[1:], strict=True)))
