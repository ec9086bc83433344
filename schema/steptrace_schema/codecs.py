"""How arrays are cut into chunks and shards, and encoded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec

if TYPE_CHECKING:
    from steptrace_schema.attributes import Profile
    from steptrace_schema.layout import ArraySpec

MIN_SHARD_STEPS: Final = 8
MAX_SHARD_STEPS: Final = 256
SHARD_BYTES: Final = 32 * 2**20
"""Raw bytes of records that are gathered before they are moved into the store."""

_POINT_READ_STEPS = 8  # a read of one step may decode this many
_POINT_READ_UNITS = 8  # a read of one unit may decode this many
_SMALL_CHUNK = 64 * 2**10
_TARGET_CHUNK = 512 * 2**10
_LARGEST_CHUNK = 4 * 2**20


def shard_steps_for(step_bytes: int) -> int:
    """Return how many steps a shard spans when one step's tensors take `step_bytes` raw bytes.

    A power of two between 8 and 256, so that shards stay few for small models and the journal
    stays short for large ones.

    Examples
    --------
    >>> shard_steps_for(61_000_000), shard_steps_for(2_200_000), shard_steps_for(1)
    (8, 8, 256)
    """
    wanted = max(1, SHARD_BYTES // max(1, step_bytes))
    return int(min(MAX_SHARD_STEPS, max(MIN_SHARD_STEPS, 2 ** int(math.log2(wanted)))))


def chunk_shape(row_shape: tuple[int, ...], itemsize: int, shard_steps: int) -> tuple[int, ...]:
    """Return the chunk shape (step, ...) of an array with rows of `row_shape`.

    Chunks span 8 steps or more, and where that gets large, only a few units of the last axis, so
    that "this tensor at step t" and "this unit over all steps" both decode little more than they
    return.
    """
    row_bytes = max(1, math.prod(row_shape)) * itemsize
    steps = min(_POINT_READ_STEPS, shard_steps)
    while steps < shard_steps and steps * row_bytes < _SMALL_CHUNK:
        steps *= 2
    extents = [max(1, n) for n in row_shape]
    if extents and steps * row_bytes > _TARGET_CHUNK:
        unit_bytes = steps * row_bytes // extents[-1]
        units = max(_POINT_READ_UNITS, _TARGET_CHUNK // max(1, unit_bytes))
        extents[-1] = min(extents[-1], units)
    for axis in range(len(extents) - 1):
        while steps * math.prod(extents) * itemsize > _LARGEST_CHUNK and extents[axis] > 1:
            extents[axis] = -(-extents[axis] // 2)
    return (steps, *extents)


def encoding(spec: ArraySpec, profile: Profile, shard_steps: int) -> dict[str, Any]:
    """Return the keywords for ``zarr.Group.create_array`` that encode `spec` under `profile`.

    ``fast`` and ``none`` use core Zarr v3 codecs only; every profile ends in a ``crc32c`` checksum.
    """
    itemsize = np.dtype(spec.dtype).itemsize
    rank = len(spec.shape) + (not spec.static)
    checksum = Crc32cCodec()
    if spec.static or rank == 0:
        chunks = tuple(max(1, n) for n in spec.shape)
        return {"chunks": chunks or (), "compressors": [checksum]}
    chunks = chunk_shape(spec.shape, itemsize, shard_steps)
    shards = (
        shard_steps,
        *(-(-max(1, n) // c) * c for n, c in zip(spec.shape, chunks[1:], strict=True)),
    )
    keywords: dict[str, Any] = {"chunks": chunks, "shards": shards}
    if profile == "none":
        return keywords | {"compressors": [checksum]}
    blosc = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=itemsize)
    step_last = [TransposeCodec(order=(*range(1, rank), 0))] if rank > 1 else []
    return keywords | {"filters": step_last, "compressors": [blosc, checksum]}
