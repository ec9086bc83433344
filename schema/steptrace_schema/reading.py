"""Reading a part of an array straight from its stored objects.

Zarr's own reading takes a millisecond for each chunk, more than most chunks take to decode.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from steptrace_schema.codecs import checksum, copy_runs
from steptrace_schema.location import is_packed

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import ByteRequest

    from steptrace_schema.codecs import Encoding
    from steptrace_schema.location import Location

_ABSENT = np.uint64(2**64 - 1)
_INDEX_CHECKSUM = 4
_WHOLE_OBJECT = 0.75  # with so many of its chunks wanted, an object is read in one go


class Fetch(Protocol):
    """Reads stored objects of one array."""

    def __call__(self, position: tuple[int, ...], start: int, stop: int | None) -> bytes:
        """Return bytes `start` to `stop` of the object at `position` of the array's grid.

        A negative `start` counts from the end; `stop` None is the end.
        """


def file_fetch(folder: Path, array: zarr.Array[Any]) -> Fetch:
    """Return what reads the stored objects of an array whose files are in `folder`."""

    def fetch(position: tuple[int, ...], start: int, stop: int | None) -> bytes:
        path = folder / array.metadata.encode_chunk_key(position)
        with path.open("rb", buffering=0) as file:
            begin = file.seek(start, os.SEEK_END if start < 0 else os.SEEK_SET)
            return file.read(-1 if stop is None else stop - begin)

    return fetch


def location_fetch(path: Location, key: str, array: zarr.Array[Any]) -> Fetch:
    """Return what reads the stored objects of the array at `key` of the trace at `path`.

    An object that is not there is empty, or raises.
    """
    if isinstance(path, Path) and not is_packed(path):
        return file_fetch(path / key, array)
    from zarr.abc.store import RangeByteRequest, SuffixByteRequest
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    def fetch(position: tuple[int, ...], start: int, stop: int | None) -> bytes:
        name = f"{key}/{array.metadata.encode_chunk_key(position)}"
        part: ByteRequest | None = RangeByteRequest(start, stop) if stop is not None else None
        if start < 0:
            part = SuffixByteRequest(-start)
        content = sync(array.store.get(name, default_buffer_prototype(), part))
        return b"" if content is None else content.to_bytes()

    return fetch


def read_region(
    encoding: Encoding,
    region: tuple[slice, ...],
    dtype: np.dtype[Any],
    fill: Any,
    fetch: Fetch,
) -> npt.NDArray[Any]:
    """Read a part of an array.

    Parameters
    ----------
    encoding
        How the array is cut and encoded.
    region
        For each axis a slice with a start, a stop, and no step, inside of the array.
    dtype, fill
        Element type, and the value of chunks that a shard says it does not have.
    fetch
        Reads stored objects.

    Raises
    ------
    ValueError
        If a checksum does not fit.
    """
    out = np.empty([part.stop - part.start for part in region], dtype)
    unit = encoding.shards or encoding.chunks
    for position, inner, target in _overlaps(region, unit):
        part = _view(out, target)
        if encoding.shards is None:
            copy_runs(part, encoding.decode(fetch(position, 0, None), dtype)[inner])
        else:
            _read_shard(encoding, encoding.shards, position, inner, fill, fetch, part)
    return out


def _view(array: npt.NDArray[Any], region: tuple[Any, ...]) -> npt.NDArray[Any]:
    """Return a part of an array that can be written to, also of an array without axes."""
    view: npt.NDArray[Any] = array[(*region, ...)]
    return view


def _overlaps(
    region: tuple[slice, ...], unit: tuple[int, ...]
) -> list[tuple[tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]]:
    """Return grid position, part of that cell, and part of the region, of all cells it meets."""
    axes = []
    for part, size in zip(region, unit, strict=True):
        cells = []
        for cell in range(part.start // size, -(-part.stop // size)):
            start, stop = max(part.start, cell * size), min(part.stop, (cell + 1) * size)
            inner = slice(start - cell * size, stop - cell * size)
            cells.append((cell, inner, slice(start - part.start, stop - part.start)))
        axes.append(cells)
    return [
        (tuple(c for c, _, _ in cell), tuple(i for _, i, _ in cell), tuple(t for _, _, t in cell))
        for cell in itertools.product(*axes)
    ]


def _read_shard(
    encoding: Encoding,
    shape: tuple[int, ...],
    position: tuple[int, ...],
    region: tuple[slice, ...],
    fill: Any,
    fetch: Fetch,
    out: npt.NDArray[Any],
) -> None:
    counts = [extent // size for extent, size in zip(shape, encoding.chunks, strict=True)]
    length = int(np.prod(counts)) * 16 + _INDEX_CHECKSUM
    wanted = _overlaps(region, encoding.chunks)
    whole = b""
    if len(wanted) >= _WHOLE_OBJECT * np.prod(counts):
        whole = fetch(position, 0, None)
    table = whole[-length:] or fetch(position, -length, None)
    view = memoryview(whole)
    if len(table) != length or checksum(table[:-_INDEX_CHECKSUM]) != table[-_INDEX_CHECKSUM:]:
        msg = "the index of the shard does not have the checksum that is stored with it"
        raise ValueError(msg)
    index = np.frombuffer(table[:-_INDEX_CHECKSUM], "<u8").reshape(*counts, 2)
    for chunk, inner, target in wanted:
        offset, size = index[chunk]
        if offset == _ABSENT:
            out[target] = fill
            continue
        begin, end = int(offset), int(offset + size)
        data = view[begin:end] if whole else fetch(position, begin, end)
        copy_runs(_view(out, target), encoding.decode(data, out.dtype)[inner])
