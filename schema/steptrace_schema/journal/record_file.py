"""Writing and reading safetensors files without copying the tensors.

The package safetensors copies every array into bytes before it writes, and holds Python's
lock meanwhile; a training step cannot run then. To read, it makes two copies. The format is a
length, a JSON header and the arrays one after the other
(https://github.com/huggingface/safetensors, "Format"), so that the operating system can gather them
from where they are, and put them where they are wanted.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_schema.format.declared import checked_shape
from steptrace_schema.format.json_text import parse_json
from steptrace_schema.storage.names import open_to_write
from steptrace_schema.storage.posix import write_all

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from steptrace_schema.journal.place import Place

DTYPES: Final = {
    np.dtype(name): code
    for name, code in {
        "bool": "BOOL",
        "uint8": "U8",
        "int8": "I8",
        "uint16": "U16",
        "int16": "I16",
        "float16": "F16",
        "uint32": "U32",
        "int32": "I32",
        "float32": "F32",
        "uint64": "U64",
        "int64": "I64",
        "float64": "F64",
    }.items()
}
"""What safetensors calls NumPy's element types."""

HEAD_BYTES: Final = 2**16
"""The first bytes of a file, in which its small arrays are."""

_NAMES: Final = {code: dtype for dtype, code in DTYPES.items()}
_METADATA: Final = "__metadata__"
_LENGTH_BYTES: Final = 8
_ALIGNMENT: Final = 8


def write_record_file(
    path: Path, arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]
) -> int:
    """Write arrays into a safetensors file, and return their bytes.

    Parameters
    ----------
    path
        The file, made or replaced.
    arrays
        Name to array; of any shape, contiguous or not, boolean, integer or floating point.
    metadata
        Kept in the header.

    Raises
    ------
    TypeError
        If an array is of a type that safetensors has not.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> write_record_file(path, {"scalars/loss": np.float32(1.5)}, {"step": "0"})  # doctest: +SKIP
    4
    """
    head, buffers = record_parts(arrays, metadata)
    descriptor = open_to_write(path)
    try:
        write_all(descriptor, [head, *buffers])
    finally:
        os.close(descriptor)
    return sum(len(buffer) for buffer in buffers)


def record_file_bytes(arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> int:
    """Return the bytes of the file that :func:`write_record_file` makes of the same.

    Examples
    --------
    >>> record_file_bytes({"scalars/loss": np.array(1.5)}, {"step": "0"})
    112
    """
    head, buffers = record_parts(arrays, metadata)
    return len(head) + sum(len(buffer) for buffer in buffers)


def record_parts(
    arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]
) -> tuple[memoryview, list[memoryview]]:
    """Return length and header of a file, and then the bytes of its arrays, not copied."""
    # Not ascontiguousarray: it makes a 0-d array one-dimensional.
    values = {key: np.asarray(array, order="C") for key, array in arrays.items()}
    entries = tuple((key, v.dtype, v.shape) for key, v in values.items())
    keys, head = _head(entries, tuple(metadata.items()))
    return head, [v.reshape(-1).view(np.uint8).data for k in keys if (v := values[k]).nbytes]


def record_rows(arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
    """Return the files of several steps that are alike, dims (step, byte), without metadata.

    Parameters
    ----------
    arrays
        Name to array, dims (step, ...).
    """
    entries = tuple((key, v.dtype, v.shape[1:]) for key, v in arrays.items())
    keys, head = _head(entries, ())
    parts = [np.ascontiguousarray(arrays[key]).reshape(len(arrays[key]), -1) for key in keys]
    heads = np.broadcast_to(np.frombuffer(head, np.uint8), (len(parts[0]), len(head)))
    return np.concatenate([heads, *(part.view(np.uint8) for part in parts)], axis=1)


@functools.lru_cache(maxsize=8)  # most steps are like the one before
def _head(
    entries: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...],
    metadata: tuple[tuple[str, str], ...],
) -> tuple[tuple[str, ...], memoryview]:
    """Return the order of arrays in a file, and its length and header, which say where they are."""
    table = []
    end = 0
    # The widest types first, as safetensors itself orders them, so that each array is aligned; of
    # these the small arrays first, which are then read with one call.
    ordered = sorted(entries, key=lambda entry: (-entry[1].itemsize, math.prod(entry[2])))
    for key, dtype, shape in ordered:
        if (code := DTYPES.get(dtype)) is None:
            msg = f"'{key}' is of type {dtype}, which a record cannot hold"
            raise TypeError(msg)
        start, end = end, end + math.prod(shape) * dtype.itemsize
        entry = {"dtype": code, "shape": shape, "data_offsets": (start, end)}
        table.append(f",{json.dumps(key)}:{json.dumps(entry, separators=(',', ':'))}")
    text = f"{{{json.dumps(_METADATA)}:{json.dumps(dict(metadata))}{''.join(table)}}}".encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    head = memoryview(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
    return tuple(key for key, *_ in ordered), head


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """Where an array is in a file.

    Attributes
    ----------
    dtype, shape
        Of the array.
    begin
        Position of its first byte in the file.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(place: Place) -> tuple[dict[str, str], dict[str, StoredArray]]:
    """Read the metadata of a safetensors file, and where its arrays are.

    Parameters
    ----------
    place
        Where the bytes of the file are.

    Raises
    ------
    ValueError
        If it is no whole safetensors file, with numbers that NumPy has a type for.
    """
    size = place.nbytes
    length = int.from_bytes(_part(place, 0, min(size, _LENGTH_BYTES)), "little")
    start = _LENGTH_BYTES + length
    if size < _LENGTH_BYTES or size < start:
        msg = f"it has {size} bytes, fewer than its header says"
        raise ValueError(msg)
    return _parsed(_part(place, _LENGTH_BYTES, length), size)


def _part(place: Place, begin: int, length: int) -> bytes:
    content = bytearray(length)
    place.read(begin, memoryview(content))
    return bytes(content)


@functools.lru_cache(maxsize=8)  # most steps are like the one before
def _parsed(text: bytes, size: int) -> tuple[dict[str, str], dict[str, StoredArray]]:
    """Return what the header of a file of `size` bytes says."""
    start = _LENGTH_BYTES + len(text)
    arrays = {}
    try:
        header = parse_json(text)
        metadata = {str(k): str(v) for k, v in header.pop(_METADATA, {}).items()}
        for key, entry in header.items():
            begin, end = entry["data_offsets"]
            dtype = _NAMES[entry["dtype"]]
            shape = checked_shape(entry["shape"], dtype.itemsize)
            found = StoredArray(dtype, shape, start + begin)
            if not (0 <= begin <= end <= size - start and end - begin == found.nbytes):
                msg = f"'{key}' has {found.nbytes} bytes, which are not where its header says"
                raise ValueError(msg)
            arrays[key] = found
    except (AttributeError, KeyError, TypeError) as error:
        msg = f"its header cannot be understood ({type(error).__name__}: {error})"
        raise ValueError(msg) from error
    if sum(found.nbytes for found in arrays.values()) > size - start:
        msg = "its arrays overlap"
        raise ValueError(msg)
    return metadata, arrays
