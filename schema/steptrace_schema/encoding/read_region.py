"""Reading a part of an array straight from its stored objects.

Zarr's own reading takes a millisecond for each chunk, more than most chunks take to decode.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from steptrace_schema.encoding.codecs import checksum
from steptrace_schema.encoding.expansion import Expansion
from steptrace_schema.encoding.objects import WHOLE, Content, Objects, Position, Read
from steptrace_schema.encoding.scratch import Scratch
from steptrace_schema.encoding.strided_copy import copy_strided

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from steptrace_schema.encoding.codecs import Encoding
    from steptrace_schema.encoding.other_codecs import OtherEncoding

_ABSENT = 2**64 - 1
_LAST_BYTE = 2**62
_INDEX_CHECKSUM = 4
_FEW_CELLS = 4096  # of the other axes, which are found once for all cells of the first one
_SCRATCH = Scratch()
_READ_WHOLE = 0.75  # with so many of its chunks wanted, an object is read in one go

Region: TypeAlias = tuple["slice | npt.NDArray[np.intp]", ...]
"""For each axis, what is wanted of it: a slice without a step, or increasing numbers."""

Overlap: TypeAlias = tuple[Position, Region, tuple[slice, ...]]
"""A cell of a grid that a region meets, what is wanted of it, and where that is in the region."""


def read_region(
    encoding: Encoding | OtherEncoding,
    region: Region,
    dtype: np.dtype[Any],
    fill: Any,
    objects: Objects,
    expansion: Expansion | None = None,
) -> npt.NDArray[Any]:
    """Read a part of an array.

    Parameters
    ----------
    encoding
        How the array is cut and encoded.
    region
        What is wanted of each axis, inside of the array.
    dtype, fill
        Element type, and the value of chunks that a shard says it does not have.
    objects
        Opens stored objects.
    expansion
        Counts what is decoded of how many bytes; this region alone if not given.

    Raises
    ------
    ValueError
        If a checksum does not fit, or more is decoded than the stored bytes may become.
    """
    counted = Expansion() if expansion is None else expansion
    out = np.empty([_length(part) for part in region], dtype)
    for position, inner, target in overlaps(region, encoding.shards or encoding.chunks):
        part = _view(out, target)
        try:
            _read_object(encoding, position, inner, fill, objects, part, counted)
        except ValueError:
            # An object store knows no open objects: this one may have been replaced in between.
            _read_object(encoding, position, inner, fill, objects, part, counted)
    return out


def _length(part: slice | npt.NDArray[np.intp]) -> int:
    return part.stop - part.start if isinstance(part, slice) else len(part)


def _view(array: npt.NDArray[Any], region: tuple[Any, ...]) -> npt.NDArray[Any]:
    """Return a part of an array that can be written to, also of an array without axes."""
    view: npt.NDArray[Any] = array[(*region, ...)]
    return view


def _outer(array: npt.NDArray[Any], region: Region) -> npt.NDArray[Any]:
    """Return a part of an array; where NumPy pairs the numbers of several axes, this does not."""
    for axis, part in enumerate(region):
        array = array[(*[slice(None)] * axis, part)]
    return array


def overlaps(region: Region, unit: tuple[int, ...]) -> Iterator[Overlap]:
    """Yield all cells of a grid of `unit` that a region meets, one at a time.

    What an array claims to be may have more of them than there is memory.
    """
    if not region:
        yield (), (), ()
        return
    rest: Iterable[Overlap] | None = None
    if count_overlaps(region[1:], unit[1:]) <= _FEW_CELLS:
        rest = [*overlaps(region[1:], unit[1:])]
    for cell, inner, target in _cells(region[0], unit[0]):
        for cells, inners, targets in rest or overlaps(region[1:], unit[1:]):
            yield (cell, *cells), (inner, *inners), (target, *targets)


def count_overlaps(region: Region, unit: tuple[int, ...]) -> int:
    """Return how many cells of a grid of `unit` a region meets."""
    return math.prod(
        sum(1 for _ in _cells(part, size))
        if not isinstance(part, slice)
        else max(0, -(-part.stop // size) - part.start // size) * (part.stop > part.start)
        for part, size in zip(region, unit, strict=True)
    )


def _cells(
    part: slice | npt.NDArray[np.intp], size: int
) -> Iterator[tuple[int, slice | npt.NDArray[np.intp], slice]]:
    """Yield the same along one axis."""
    if not _length(part):
        return
    if isinstance(part, slice):
        for cell in range(part.start // size, -(-part.stop // size)):
            start, stop = max(part.start, cell * size), min(part.stop, (cell + 1) * size)
            inner = slice(start - cell * size, stop - cell * size)
            yield cell, inner, slice(start - part.start, stop - part.start)
        return
    for cell in np.unique(part // size).tolist():
        first, last = np.searchsorted(part, [cell * size, (cell + 1) * size]).tolist()
        yield cell, part[first:last] - cell * size, slice(first, last)


def _read_object(
    encoding: Encoding | OtherEncoding,
    position: Position,
    region: Region,
    fill: Any,
    objects: Objects,
    out: npt.NDArray[Any],
    expansion: Expansion,
) -> None:
    with objects(position) as read:
        if encoding.shards is None:
            (content,) = read([WHOLE])
            expansion.take(math.prod(encoding.chunks) * out.itemsize, len(content))
            copy_strided(out, _outer(encoding.decode(content, out.dtype), region))
        else:
            _read_shard(encoding, encoding.shards, region, fill, read, out, expansion)


def _read_shard(
    encoding: Encoding | OtherEncoding,
    shape: tuple[int, ...],
    region: Region,
    fill: Any,
    read: Read,
    out: npt.NDArray[Any],
    expansion: Expansion,
) -> None:
    counts = [extent // size for extent, size in zip(shape, encoding.chunks, strict=True)]
    length = math.prod(counts) * 16 + _INDEX_CHECKSUM
    whole: Content = b""
    if count_overlaps(region, encoding.chunks) >= _READ_WHOLE * math.prod(counts):
        (whole,) = read([WHOLE])
    table = bytes(whole[-length:])
    if not whole:
        table = bytes(*read([(-length, None)]))
    if len(table) != length or checksum(table[:-_INDEX_CHECKSUM]) != table[-_INDEX_CHECKSUM:]:
        msg = "the index of the shard does not have the checksum that is stored with it"
        raise ValueError(msg)
    wanted = [*overlaps(region, encoding.chunks)]  # no more than the index has entries
    index = np.frombuffer(table[:-_INDEX_CHECKSUM], "<u8").reshape(*counts, 2)
    if _overlap(index.reshape(-1, 2)):
        msg = "chunks of the shard share bytes"
        raise ValueError(msg)
    places = [index[chunk].tolist() for chunk, _, _ in wanted]
    if any(max(place) > _LAST_BYTE for place in places if place[0] != _ABSENT):
        msg = "the index of the shard names bytes that no file has"
        raise ValueError(msg)
    ranges = [(offset, offset + size) for offset, size in places if offset != _ABSENT]
    contents: Iterator[Content]
    if whole:
        view = memoryview(whole)
        contents = (view[start:stop] for start, stop in ranges)
    else:
        contents = iter(read(ranges))
    stored = (None if offset == _ABSENT else next(contents) for offset, _ in places)
    chunks = zip(wanted, stored, strict=True)
    for _, row in itertools.groupby(chunks, key=lambda chunk: chunk[0][0][:-1]):
        _decode_row(encoding, [*row], fill, out, expansion)


def _overlap(entries: npt.NDArray[np.uint64]) -> bool:
    """Whether two chunks are in the same bytes, so that few could become any number of chunks."""
    begins, sizes = entries[entries[:, 0] != _ABSENT].T
    if (begins[:-1] + sizes[:-1] <= begins[1:]).all():  # one behind the other, as they are written
        return False
    order = np.argsort(begins)
    begins, sizes = begins[order], sizes[order]
    return bool((begins[:-1] + sizes[:-1] > begins[1:]).any())


def _decode_row(
    encoding: Encoding | OtherEncoding,
    row: list[tuple[Overlap, Content | None]],
    fill: Any,
    out: npt.NDArray[Any],
    expansion: Expansion,
) -> None:
    """Decode chunks that lie beside each other along the last axis.

    Those that are wanted in their whole width go to their places together: one after the other,
    each would write a few bytes into every line of memory that they share.
    """
    stored = sum(len(content) for _, content in row if content is not None)
    expansion.take(len(row) * math.prod(encoding.chunks) * out.itemsize, stored)
    with _SCRATCH.array((len(row), *encoding.stored_shape), out.dtype) as memory:
        for place, (_, content) in zip(memory, row, strict=True):
            if content is None:
                place[...] = fill
            else:
                encoding.decode_into(content, place)
        chunks = encoding.step_first(memory, axis=1)

        def place_in_row(number: int) -> int | None:
            _, inner, _ = row[number][0]
            width = encoding.chunks[-1]
            return None if isinstance(inner[-1], slice) and _length(inner[-1]) == width else number

        for _, numbers in itertools.groupby(range(len(row)), key=place_in_row):
            first, *others = numbers
            last = others[-1] if others else first
            (_, inner, target), (_, _, end) = row[first][0], row[last][0]
            part = _outer(chunks[first : last + 1], (slice(None), *inner))
            place = out[(*target[:-1], slice(target[-1].start, end[-1].stop))]
            places = place.reshape(*place.shape[:-1], len(part), part.shape[-1])
            values = np.moveaxis(part, 0, -2)
            if encoding.step_last:  # one step after the other would read every line again for each
                places, values = np.moveaxis(places, 0, -2), np.moveaxis(values, 0, -2)
            copy_strided(places, values)
