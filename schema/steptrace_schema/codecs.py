"""How arrays are cut into chunks and shards, and encoded."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from google_crc32c import value as crc32c
from numcodecs import Blosc
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec

from steptrace_schema.errors import TraceError

if TYPE_CHECKING:
    import zarr
    from typing_extensions import Buffer

    from steptrace_schema.attributes import Profile
    from steptrace_schema.layout import ArraySpec

MIN_SHARD_STEPS: Final = 8
MAX_SHARD_STEPS: Final = 256
SHARD_BYTES: Final = 64 * 2**20
"""Raw bytes of records that are gathered before they are moved into the store."""

_POINT_READ_STEPS = 8  # a read of one step may decode this many
_POINT_READ_UNITS = 8  # a read of one unit may decode this many
_SMALL_CHUNK = 64 * 2**10
_TARGET_CHUNK = 512 * 2**10
_LARGEST_CHUNK = 4 * 2**20
_LARGEST_SHARD = 16 * 2**20


def shard_steps_for(step_bytes: int) -> int:
    """Return how many steps a shard spans when one step's tensors take `step_bytes` raw bytes.

    A power of two between 8 and 256, so that shards stay few for small models and the journal
    stays short for large ones.

    Examples
    --------
    >>> shard_steps_for(61_000_000), shard_steps_for(2_000_000), shard_steps_for(1)
    (8, 32, 256)
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


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How one array is cut and encoded, to declare it and to encode its chunks.

    Chunks are encoded here as Zarr would, but without its work for each chunk, which takes longer
    than the compression.

    Attributes
    ----------
    chunks
        Shape of one compressed chunk.
    shards
        Shape of one stored object that holds many chunks; None where each chunk is one.
    blosc
        The compressor, None for none.
    step_last
        Whether the first axis goes last before compression.
    """

    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    blosc: BloscCodec | None
    step_last: bool

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> Encoding:
        """Return how an array of a store is encoded.

        Raises
        ------
        TraceError
            If it is encoded in a way that no profile uses.
        """
        step_last = tuple(TransposeCodec(order=order) for order in [_step_last(array.ndim)])
        blosc = tuple(c for c in array.compressors if isinstance(c, BloscCodec))
        if (
            (array.filters and array.filters != step_last)
            or array.compressors != (*blosc, Crc32cCodec())
            or len(blosc) > 1
        ):
            msg = (
                f"array '{array.path}' is encoded by {array.filters} and {array.compressors}, "
                "which this steptrace does not write; record into another trace"
            )
            raise TraceError(msg)
        compressor = blosc[0] if blosc else None
        return cls(array.chunks, array.shards, compressor, step_last=bool(array.filters))

    def keywords(self) -> dict[str, Any]:
        """Return the keywords for ``zarr.Group.create_array``."""
        compressors = [codec for codec in (self.blosc, Crc32cCodec()) if codec is not None]
        keywords: dict[str, Any] = {"chunks": self.chunks, "compressors": compressors}
        if self.step_last:
            keywords["filters"] = [TransposeCodec(order=_step_last(len(self.chunks)))]
        return keywords if self.shards is None else keywords | {"shards": self.shards}

    def encode(self, chunk: npt.NDArray[Any]) -> tuple[Buffer, bytes]:
        """Encode one chunk of the shape `chunks`; return it, and its checksum."""
        ordered = np.moveaxis(chunk, 0, -1) if self.step_last else chunk
        data: Any = np.ascontiguousarray(ordered).reshape(-1).view(np.uint8)
        if self.blosc is not None:
            data = Blosc(
                self.blosc.cname.value,
                self.blosc.clevel,
                _SHUFFLES[self.blosc.shuffle.value],
                self.blosc.blocksize,
                typesize=self.blosc.typesize,
            ).encode(data)
        return data, checksum(data)


def checksum(data: Buffer) -> bytes:
    """Return what the ``crc32c`` codec appends to `data`."""
    value: int = crc32c(data)
    return value.to_bytes(4, "little")


def _step_last(rank: int) -> tuple[int, ...]:
    return (*range(1, rank), *([0] if rank else []))


_SHUFFLES: Final = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


def encoding(spec: ArraySpec, profile: Profile, shard_steps: int) -> Encoding:
    """Return how `spec` is encoded under `profile`.

    ``fast`` and ``none`` use core Zarr v3 codecs only; every profile ends in a ``crc32c`` checksum.
    """
    itemsize = np.dtype(spec.dtype).itemsize
    if spec.static:
        return Encoding(tuple(max(1, n) for n in spec.shape), None, None, step_last=False)
    chunks = chunk_shape(spec.shape, itemsize, shard_steps)
    shards = shard_shape(spec.shape, chunks, itemsize, shard_steps)
    if profile == "none":
        return Encoding(chunks, shards, None, step_last=False)
    blosc = BloscCodec(cname="lz4", clevel=1, shuffle="shuffle", typesize=itemsize)
    return Encoding(chunks, shards, blosc, step_last=bool(spec.shape))
