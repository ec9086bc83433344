"""One step of a journal, read from its file."""

from __future__ import annotations

import functools
import os
import re
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.journal.record_file import (
    HEAD_BYTES,
    read_header,
)
from steptrace_schema.names import STEP
from steptrace_schema.storage.names import open_to_read
from steptrace_schema.storage.posix import IS_POSIX, read_exactly

if TYPE_CHECKING:
    from collections.abc import Set
    from pathlib import Path

    import numpy.typing as npt


class Record:
    """One step of a journal, read from its file when an array is asked for.

    The file has to be there until the first array is asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = int(path.stem)
        try:
            descriptor = open_to_read(path)
            try:
                metadata, self._arrays = read_header(descriptor)
                self.nbytes = os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)  # many records may wait, and few files be open at a time
            self.step = _step(metadata[STEP])
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise _unreadable(path, error) from error
        self.keys: Set[str] = self._arrays.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of the array ``kind/path`` of this step."""
        return self._arrays[key].shape

    def is_of(self, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        """Whether the array ``kind/path`` of this step has this shape and type."""
        stored = self._arrays[key]
        return stored.shape == shape and stored.dtype == dtype

    def dtype(self, key: str) -> np.dtype[Any]:
        """Return the element type of the array ``kind/path`` of this step."""
        return self._arrays[key].dtype

    def read(self, key: str) -> npt.NDArray[Any]:
        """Return the array ``kind/path`` of this step."""
        stored = self._arrays[key]
        array = np.empty(stored.shape, stored.dtype)
        self._read_bytes(stored.begin, array.reshape(-1).view(np.uint8).data)
        return array

    def read_into(self, key: str, array: npt.NDArray[Any]) -> None:
        """Read the array ``kind/path`` of this step into a contiguous one of its shape and type.

        For one who reads all arrays: the small ones are read together, and kept.
        """
        stored = self._arrays[key]
        target = array.reshape(-1).view(np.uint8).data
        if stored.begin + len(target) <= HEAD_BYTES:
            target[:] = self._head[stored.begin : stored.begin + len(target)]
        else:
            self._read_bytes(stored.begin, target)

    @functools.cached_property
    def _head(self) -> memoryview:
        ends = (stored.begin + stored.nbytes for stored in self._arrays.values())
        head = memoryview(bytearray(max(end for end in ends if end <= HEAD_BYTES)))
        self._read_bytes(0, head)
        return head

    def _read_bytes(self, begin: int, target: memoryview) -> None:
        try:
            if IS_POSIX:
                read_exactly(self._descriptor, begin, target)
                return
            descriptor = open_to_read(self.path)  # an open file could not be deleted
            try:
                read_exactly(descriptor, begin, target)
            finally:
                os.close(descriptor)
        except (FileNotFoundError, ValueError) as error:
            raise _unreadable(self.path, error) from error

    @functools.cached_property
    def _descriptor(self) -> int:
        descriptor = open_to_read(self.path)
        weakref.finalize(self, os.close, descriptor)
        return descriptor


class MappedRecord:
    """One step of a journal that can be read although its file has been deleted since.

    The file is mapped into memory, which keeps it, without a file descriptor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = int(path.stem)
        try:
            file: Any = safe_open(path, framework="np")  # Any: the package has no types for it
            self.nbytes = path.stat().st_size
            self.step = _step(file.metadata()[STEP])
            self.keys: Set[str] = frozenset(file.keys())
        except (SafetensorError, FileNotFoundError, KeyError, TypeError, ValueError) as error:
            raise _unreadable(path, error) from error
        self._file = file

    def read(self, key: str) -> npt.NDArray[Any]:
        """Return the array ``kind/path`` of this step."""
        try:
            array: npt.NDArray[Any] = self._file.get_tensor(key)
        except (SafetensorError, TypeError, KeyError, AttributeError) as error:
            raise _unreadable(self.path, error) from error
        return array


def _step(text: str) -> int:
    if re.fullmatch(r"\d{1,18}", text, re.ASCII):
        return int(text)
    msg = f"{text!r:.80} is no number of a step"
    raise ValueError(msg)


def _unreadable(path: Path, error: Exception) -> DamagedTraceError:
    return DamagedTraceError(
        f"{path} is not a readable journal record ({error}); move it away and run "
        "'steptrace recover' to keep the steps before and after it"
    )
