"""Which codecs the arrays of each kind get."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_schema.encoding.chunk_shapes import (
    POINT_READ,
    SMOOTH_POINT_READ,
    chunk_shape,
    shard_shape,
)
from steptrace_schema.encoding.codecs import Encoding

if TYPE_CHECKING:
    from steptrace_schema.format.layout import ArraySpec
    from steptrace_schema.format.policy import Profile


_BLOCK = 64 * 2**10  # bytes that are compressed at once and stay in the nearest cache


_SMOOTH_KINDS: Final = frozenset({"weights", "probe", "optimizer"})
"""Kinds whose values change little from step to step."""


_DENSE_KINDS: Final = frozenset({"weights", "optimizer"})
"""Kinds with hardly a zero; in others, many units give zero at step after step."""


_PCODEC_KINDS: Final = "iuf"  # integers and floats, but for those of one byte


def encoding(spec: ArraySpec, profile: Profile, shard_steps: int) -> Encoding:
    """Return how `spec` is encoded under `profile`.

    ``fast`` and ``none`` use core Zarr v3 codecs only; ``compact`` uses pcodec. Every profile ends
    in a ``crc32c`` checksum.
    """
    dtype = np.dtype(spec.dtype)
    if spec.static:
        return Encoding(tuple(max(1, n) for n in spec.shape), None)
    smooth = profile == "compact" and spec.kind in _SMOOTH_KINDS
    point_read = SMOOTH_POINT_READ if smooth else POINT_READ
    chunks = chunk_shape(spec.shape, dtype.itemsize, shard_steps, point_read)
    shards = shard_shape(spec.shape, chunks, dtype.itemsize, shard_steps)
    plain = Encoding(chunks, shards)
    if profile == "none":
        return plain
    step_last = dataclasses.replace(plain, step_last=bool(spec.shape))
    size = dtype.itemsize
    if profile == "fast":
        whole = math.prod(chunks) * size
        if dtype.kind == "f" and spec.kind not in _DENSE_KINDS:
            # Such zeros are found without a shuffle too, in a third of the time.
            blosc = _blosc("lz4", size, min(whole, _BLOCK), shuffle="noshuffle")
            return dataclasses.replace(step_last, blosc=blosc)
        # A block that holds the whole chunk lets lz4 find each row again in the next step's.
        return dataclasses.replace(plain, blosc=_blosc("lz4", size, whole))
    if dtype.kind in _PCODEC_KINDS and size > 1:
        return dataclasses.replace(step_last, pcodec=_SMOOTH if smooth else _PLAIN)
    return dataclasses.replace(step_last, blosc=_blosc("zstd", size, 0))


def coordinates(chunks: tuple[int, ...]) -> Encoding:
    """Return how numbers of eight bytes are encoded that every trace has: steps, statistics."""
    return Encoding(chunks, None, blosc=_blosc("lz4", 8, 0))


def _blosc(
    compressor: str, itemsize: int, blocksize: int, shuffle: str = "shuffle"
) -> dict[str, Any]:
    return {
        "typesize": itemsize,
        "cname": compressor,
        "clevel": 5,
        "shuffle": shuffle,
        "blocksize": blocksize,
    }


_SMOOTH: Final = {"level": 8, "delta_spec": "try_consecutive", "delta_encoding_order": 1}


_PLAIN: Final = {"level": 8, "delta_spec": "none"}
