"""Writing the ring of a journal."""

from __future__ import annotations

import heapq
import os
import struct
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_schema.journal.ring import (
    NUMBER,
    NUMBER_BYTES,
    RING_MAGIC,
    RingSize,
    entry_at,
    record_checksum,
)
from steptrace_schema.storage.names import open_to_write
from steptrace_schema.storage.posix import read_exactly, write_at

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from steptrace_schema.storage.durability import Persistence

_FIELDS: Final = struct.Struct("<QQQ")
"""What the table says of a record before its checksum: number plus 1, length and step."""


class RingWriter:
    """Writes records into the free slots of a new ring.

    Parameters
    ----------
    path
        The file, which is made.
    size
        How large it is. Its disk blocks are taken as they are first written.
    lasting
        What a record survives.
    """

    def __init__(self, path: Path, size: RingSize, lasting: Persistence) -> None:
        self._path = path
        self._size = size
        self._lasting = lasting
        temporary = path.with_name(path.name + ".partial")
        self._descriptor = open_to_write(temporary)
        weakref.finalize(self, os.close, self._descriptor)
        os.ftruncate(self._descriptor, size.nbytes)
        numbers = np.array([size.slots, size.slot_bytes], NUMBER).tobytes()
        write_at(self._descriptor, 0, [memoryview(RING_MAGIC + numbers)])
        lasting.file(temporary)
        temporary.replace(path)
        lasting.names(path.parent)
        # The lowest free slot comes first, so that only as much of the file is ever in use as
        # records wait at a time.
        self._free = list(range(size.slots))
        self._taken: deque[int] = deque()

    def put(self, index: int, step: int, buffers: Sequence[memoryview]) -> bool:
        """Write a record; return False, having written nothing, where there is no room for it.

        Parameters
        ----------
        index
            Number of the record.
        step
            The step that it is of.
        buffers
            Its bytes, in order.
        """
        length = sum(map(len, buffers))
        if not self._has_room(1, length):
            return False
        self._put(index, step, length, buffers)
        self._lasting.file(self._path)
        return True

    def put_rows(self, index: int, step: int, rows: npt.NDArray[np.uint8]) -> bool:
        """Write records of consecutive numbers and steps, as :meth:`put` does; all, or none.

        Parameters
        ----------
        index, step
            Number of the first record, and its step.
        rows
            The bytes of each record, dims (record, byte); contiguous.
        """
        if not self._has_room(*rows.shape):
            return False
        for number, row in enumerate(rows):
            self._put(index + number, step + number, len(row), [row.data])
        self._lasting.file(self._path)
        return True

    def _has_room(self, count: int, length: int) -> bool:
        self._take_back()
        return length <= self._size.slot_bytes and count <= len(self._free)

    def _put(self, index: int, step: int, length: int, buffers: Sequence[memoryview]) -> None:
        slot = self._free[0]
        fields = _FIELDS.pack(index + 1, length, step)
        entry = memoryview(fields + record_checksum(fields, buffers).to_bytes(8, "little"))
        write_at(self._descriptor, self._size.slot_at(slot), list(buffers))
        write_at(self._descriptor, entry_at(slot) + NUMBER_BYTES, [entry[NUMBER_BYTES:]])
        # A reader that sees the number sees all that was written before it.
        write_at(self._descriptor, entry_at(slot), [entry[:NUMBER_BYTES]])
        self._taken.append(heapq.heappop(self._free))

    def _take_back(self) -> None:
        """Find the slots whose records were moved, which happens in the order of the records."""
        number = memoryview(bytearray(NUMBER_BYTES))
        while self._taken:
            read_exactly(self._descriptor, entry_at(self._taken[0]), number)
            if any(number):
                return
            heapq.heappush(self._free, self._taken.popleft())
