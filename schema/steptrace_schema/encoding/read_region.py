"""Reading a part of an array straight from its stored objects.

Zarr's own reading takes a millisecond for each chunk, more than most chunks take to decode.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from steptrace_schema.encoding.codecs import checksum
from steptrace_schema.encoding.scratch import Scratch
from steptrace_schema.encoding.strided_copy import copy_strided
from steptrace_schema.encoding.zarr_private import chunk_keys, waiting
from steptrace_schema.storage.exact_io import read_bytes
from steptrace_schema.storage.location import is_packed

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import ByteRequest

    from steptrace_schema.encoding.codecs import Encoding
    from steptrace_schema.storage.location import Location

_ABSENT = 2**64 - 1
_INDEX_CHECKSUM = 4
_WHOLE = (0, None)
_SCRATCH = Scratch()
_READ_WHOLE = 0.75  # with so many of its chunks wanted, an object is read in one go

Position: TypeAlias = tuple[int, ...]
"""Which object of the array's grid, or which chunk of an object."""

Region: TypeAlias = tuple["slice | npt.NDArray[np.intp]", ...]
"""For each axis, what is wanted of it: a slice without a step, or increasing numbers."""

Overlap: TypeAlias = tuple[Position, Region, tuple[slice, ...]]
"""A cell of a grid that a region meets, what is wanted of it, and where that is in the region."""

Range: TypeAlias = tuple[int, "int | None"]
"""From one byte of an object to another, None for its end; negative numbers count from there."""

Content: TypeAlias = "bytes | memoryview"
"""A part of an object; nothing may refer to it when the object is closed."""

Read: TypeAlias = Callable[[Sequence[Range]], Iterable[Content]]
"""Returns the content of ranges of an object, in their order."""

Objects: TypeAlias = Callable[[Position], AbstractContextManager[Read]]
"""Opens a stored object of one array."""


def file_objects(folder: Path, array: zarr.Array[Any]) -> Objects:
    """Return what opens the stored objects of an array whose files are in `folder`.

    An open object stays what it was when a writer replaces it.
    """
    chunk_key = chunk_keys(array)

    @contextlib.contextmanager
    def opened(position: Position) -> Iterator[Read]:
        path = folder / chunk_key(position)
        with path.open("rb", buffering=0) as file, contextlib.ExitStack() as borrowed:

            def read(ranges: Sequence[Range]) -> Iterator[Content]:
                for part in ranges:
                    start, stop = part
                    if part == _WHOLE:
                        size = os.fstat(file.fileno()).st_size
                        memory = borrowed.enter_context(_SCRATCH.array((size,), np.uint8))
                        read_bytes(file.fileno(), 0, memory.data)
                        yield memory.data
                    else:
                        begin = file.seek(start, os.SEEK_END if start < 0 else os.SEEK_SET)
                        yield file.read(-1 if stop is None else stop - begin)

            yield read

    return opened


def location_objects(path: Location, key: str, array: zarr.Array[Any]) -> Objects:
    """Return what opens the stored objects of the array at `key` of the trace at `path`.

    An object that is not there is empty, or raises.
    """
    if isinstance(path, Path) and not is_packed(path):
        return file_objects(path / key, array)
    from zarr.buffer.cpu import buffer_prototype

    chunk_key, wait = chunk_keys(array), waiting()

    @contextlib.contextmanager
    def opened(position: Position) -> Iterator[Read]:
        name = f"{key}/{chunk_key(position)}"

        def get(requests: Sequence[ByteRequest | None]) -> list[bytes]:
            wanted = [(name, request) for request in requests]
            found = wait(array.store.get_partial_values(buffer_prototype, wanted))
            return [b"" if content is None else content.to_bytes() for content in found]

        if is_packed(path):  # any part of a member is read from its beginning
            (content,) = get([None])
            yield lambda ranges: (content[start:stop] for start, stop in ranges)
        else:
            yield lambda ranges: get([_request(*part) for part in ranges])

    return opened


def _request(start: int, stop: int | None) -> ByteRequest | None:
    from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest

    if stop is not None:
        return RangeByteRequest(start, stop)
    if start < 0:
        return SuffixByteRequest(-start)
    return OffsetByteRequest(start) if start else None


def read_region(
    encoding: Encoding,
    region: Region,
    dtype: np.dtype[Any],
    fill: Any,
    objects: Objects,
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

    Raises
    ------
    ValueError
        If a checksum does not fit.
    """
    out = np.empty([_length(part) for part in region], dtype)
    for position, inner, target in overlaps(region, encoding.shards or encoding.chunks):
        part = _view(out, target)
        try:
            _read_object(encoding, position, inner, fill, objects, part)
        except ValueError:
            # An object store knows no open objects: this one may have been replaced in between.
            _read_object(encoding, position, inner, fill, objects, part)
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


def overlaps(region: Region, unit: tuple[int, ...]) -> list[Overlap]:
    """Return all cells of a grid of `unit` that a region meets."""
    axes = [list(_cells(part, size)) for part, size in zip(region, unit, strict=True)]
    return [
        (tuple(c for c, _, _ in cell), tuple(i for _, i, _ in cell), tuple(t for _, _, t in cell))
        for cell in itertools.product(*axes)
    ]


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
    encoding: Encoding,
    position: Position,
    region: Region,
    fill: Any,
    objects: Objects,
    out: npt.NDArray[Any],
) -> None:
    with objects(position) as read:
        if encoding.shards is None:
            (content,) = read([_WHOLE])
            copy_strided(out, _outer(encoding.decode(content, out.dtype), region))
        else:
            _read_shard(encoding, encoding.shards, region, fill, read, out)


def _read_shard(
    encoding: Encoding,
    shape: tuple[int, ...],
    region: Region,
    fill: Any,
    read: Read,
    out: npt.NDArray[Any],
) -> None:
    counts = [extent // size for extent, size in zip(shape, encoding.chunks, strict=True)]
    length = int(np.prod(counts)) * 16 + _INDEX_CHECKSUM
    wanted = overlaps(region, encoding.chunks)
    whole: Content = b""
    if len(wanted) >= _READ_WHOLE * np.prod(counts):
        (whole,) = read([_WHOLE])
    table = bytes(whole[-length:])
    if not whole:
        table = bytes(*read([(-length, None)]))
    if len(table) != length or checksum(table[:-_INDEX_CHECKSUM]) != table[-_INDEX_CHECKSUM:]:
        msg = "the index of the shard does not have the checksum that is stored with it"
        raise ValueError(msg)
    index = np.frombuffer(table[:-_INDEX_CHECKSUM], "<u8").reshape(*counts, 2)
    places = [index[chunk].tolist() for chunk, _, _ in wanted]
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
        _decode_row(encoding, [*row], fill, out)


def _decode_row(
    encoding: Encoding,
    row: list[tuple[Overlap, Content | None]],
    fill: Any,
    out: npt.NDArray[Any],
) -> None:
    """Decode chunks that lie beside each other along the last axis.

    Those that are wanted in their whole width go to their places together: one after the other,
    each would write a few bytes into every line of memory that they share.
    """
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
