"""The stored objects of an array: chunks, and shards of many chunks.

The layout of a shard is that of the ``sharding_indexed`` codec of Zarr v3: the encoded chunks, then
for each chunk its offset and length as little-endian uint64, then the checksum of that index.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from steptrace_schema.encoding.codecs import checksum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

    from steptrace_schema.encoding.codecs import Encoding

_ABSENT: Final = 2**64 - 1  # offset and length of a chunk that lies outside of the array


def objects(
    encoding: Encoding, start: int, rows: npt.NDArray[Any], fill: Any
) -> Iterator[tuple[tuple[int, ...], list[Buffer]]]:
    """Encode whole rows of an array, one stored object at a time.

    Parameters
    ----------
    encoding
        How the array is cut and encoded.
    start
        Row of the array at which `rows` begins: the first one of a stored object.
    rows
        Dims (step, ...): whole rows. Where they end inside a stored object, it is filled up.
    fill
        The array's fill value.

    Yields
    ------
    tuple
        Position of the object in the array's grid, and its bytes, in pieces.
    """
    unit = encoding.shards or encoding.chunks
    counts = [-(-extent // size) for extent, size in zip(rows.shape, unit, strict=True)]
    for position in itertools.product(*(range(n) for n in counts)):
        region = tuple(slice(i * n, (i + 1) * n) for i, n in zip(position, unit, strict=True))
        block = rows[region]
        place = (start // unit[0] + position[0], *position[1:]) if unit else ()
        if encoding.shards is None:
            yield place, [*encoding.encode(_filled_up(block, encoding.chunks, fill))]
        else:
            yield place, _shard(encoding, encoding.shards, block, fill)


def _shard(
    encoding: Encoding, shape: tuple[int, ...], block: npt.NDArray[Any], fill: Any
) -> list[Buffer]:
    counts = [extent // size for extent, size in zip(shape, encoding.chunks, strict=True)]
    index = np.full((*counts, 2), _ABSENT, dtype="<u8")
    pieces: list[Buffer] = []
    offset = 0
    for outer in itertools.product(*(range(n) for n in counts[:-1])):
        inner = zip(outer, encoding.chunks, strict=False)
        row = block[tuple(slice(i * n, (i + 1) * n) for i, n in inner)]
        if row.size == 0:
            continue
        width = encoding.chunks[-1]
        whole = (*encoding.chunks[:-1], -(-row.shape[-1] // width) * width)
        for number, encoded in enumerate(encoding.encode_row(_filled_up(row, whole, fill))):
            length = sum(len(memoryview(piece)) for piece in encoded)
            pieces += encoded
            index[(*outer, number)] = offset, length
            offset += length
    table = index.tobytes()
    return [*pieces, table, checksum(table)]


def _filled_up(part: npt.NDArray[Any], shape: tuple[int, ...], fill: Any) -> npt.NDArray[Any]:
    if part.shape == shape:
        return part
    whole = np.full(shape, fill, dtype=part.dtype)
    whole[tuple(slice(0, extent) for extent in part.shape)] = part
    return whole
