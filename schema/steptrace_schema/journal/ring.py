"""The ring of a journal: slots of one file that records are written into again and again.

A fresh file for each record needs new memory of the page cache, a name, and its removal; that costs
more than to write the record. A slot is free again as soon as its record is in the store. What a
slot holds counts from the moment that its entry in the table is written, with the number, the
length and a checksum of the record, so that what was torn is never taken for a record.
"""

from __future__ import annotations

import dataclasses
import heapq
import os
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.storage.names import open_to_read, open_to_write, read_alone
from steptrace_schema.storage.posix import IS_POSIX, read_exactly, write_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from steptrace_schema.storage.durability import Persistence

RING_FILE: Final = "ring"

_MAGIC: Final = b"steptrace ring 1"
_NUMBER: Final = "<u8"
_NUMBER_BYTES: Final = 8
_HEAD: Final = 32
_ENTRY: Final = np.dtype(
    [("record", _NUMBER), ("length", _NUMBER), ("step", _NUMBER), ("checksum", _NUMBER)]
)
"""What the table holds of each slot; `record` is its record's number plus 1, or 0 of a free one."""
_PAGE: Final = 4096
MOST_SLOTS: Final = 4096
_MOST_BYTES: Final = 2**56
_LARGEST_NUMBER: Final = 10**12
_LARGEST_STEP: Final = 10**18
_HASHED_AT_ONCE: Final = 2**18  # what stays in the cache from reading to hashing
_DENSEST: Final = 64
_ALWAYS_THERE: Final = 2**28
"""A record may be so much longer than what the file takes on its disk, which may compress, or not
say it at once; a file of holes alone is no ring."""


@dataclasses.dataclass(frozen=True)
class RingSize:
    """How large a ring is.

    Attributes
    ----------
    slots
        How many records it holds at a time.
    slot_bytes
        Bytes of the largest record.
    """

    slots: int
    slot_bytes: int

    @classmethod
    def within(cls, record_bytes: int, room: int) -> RingSize | None:
        """Return the largest ring for records of `record_bytes` that takes no more than `room`.

        None where that would be of a single slot.

        Examples
        --------
        >>> RingSize.within(9000, 1_000_000)
        RingSize(slots=80, slot_bytes=12288)
        """
        slot_bytes = _whole_pages(record_bytes)
        slots = min(MOST_SLOTS, max(0, room - 2 * _PAGE) // (slot_bytes + _ENTRY.itemsize))
        return cls(slots, slot_bytes) if slots > 1 else None

    @property
    def first_slot(self) -> int:
        """Where the first slot begins in the file."""
        return _whole_pages(_HEAD + self.slots * _ENTRY.itemsize)

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self.first_slot + self.slots * self.slot_bytes

    def slot_at(self, slot: int) -> int:
        """Return where a slot begins in the file."""
        return self.first_slot + slot * self.slot_bytes


def _whole_pages(nbytes: int) -> int:
    return -(-nbytes // _PAGE) * _PAGE


def _entry_at(slot: int) -> int:
    return _HEAD + slot * _ENTRY.itemsize


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
        numbers = np.array([size.slots, size.slot_bytes], _NUMBER).tobytes()
        write_at(self._descriptor, 0, [memoryview(_MAGIC + numbers)])
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
        self._take_back()
        if length > self._size.slot_bytes or not self._free:
            return False
        slot = self._free[0]
        fields = np.array([index + 1, length, step], _NUMBER).tobytes()
        number = memoryview(fields)[:_NUMBER_BYTES]
        rest = memoryview(fields + _checksum(fields, buffers).to_bytes(8, "little"))[_NUMBER_BYTES:]
        write_at(self._descriptor, self._size.slot_at(slot), list(buffers))
        write_at(self._descriptor, _entry_at(slot) + _NUMBER_BYTES, [rest])
        # A reader that sees the number sees all that was written before it.
        write_at(self._descriptor, _entry_at(slot), [number])
        self._lasting.file(self._path)
        self._taken.append(heapq.heappop(self._free))
        return True

    def _take_back(self) -> None:
        """Find the slots whose records were moved, which happens in the order of the records."""
        number = memoryview(bytearray(_NUMBER_BYTES))
        while self._taken:
            read_exactly(self._descriptor, _entry_at(self._taken[0]), number)
            if any(number):
                return
            heapq.heappush(self._free, self._taken.popleft())


def _checksum(fields: bytes, buffers: Iterable[memoryview]) -> int:
    checksum = xxhash.xxh3_64(fields)
    for buffer in buffers:
        checksum.update(buffer)
    return checksum.intdigest()


@dataclasses.dataclass(frozen=True)
class Slot:
    """What the table of a ring says of one of its slots.

    Attributes
    ----------
    number
        Which slot it is.
    index, length, step, checksum
        Of the record in it.
    """

    number: int
    index: int
    length: int
    step: int
    checksum: int

    def is_of(self, buffers: Iterable[memoryview]) -> bool:
        """Whether these are the bytes of the record."""
        fields = np.array([self.index + 1, self.length, self.step], _NUMBER).tobytes()
        return _checksum(fields, buffers) == self.checksum


class Ring:
    """Reads a ring, whether or not it is still being written.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    FileNotFoundError
        If there is none.
    DamagedTraceError
        If it is no ring.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = open_to_read(path, holes=True)
        except ValueError as error:
            raise self._damaged(str(error)) from error
        self._close = weakref.finalize(self, os.close, self._descriptor)
        try:
            head = self.read(0, _HEAD)
        except ValueError as error:
            raise self._damaged(str(error)) from error
        slots, slot_bytes = (int(n) for n in np.frombuffer(head, _NUMBER)[2:])
        self.size = RingSize(slots, slot_bytes)
        status = os.fstat(self._descriptor)
        # Python's integers do not overflow, whatever the file claims.
        if (
            head[: len(_MAGIC)] != _MAGIC
            or not 0 < slots <= MOST_SLOTS
            or self.size.nbytes != status.st_size
            or status.st_size > _MOST_BYTES
        ):
            msg = "its first bytes do not fit its size"
            raise self._damaged(msg)
        taken = getattr(status, "st_blocks", status.st_size // 512) * 512
        self._longest = min(slot_bytes, max(_ALWAYS_THERE, _DENSEST * taken))

    def slots(self) -> list[Slot]:
        """Return the slots that hold a record; entries that no writer has written are left out."""
        found = self._table()
        numbers = np.flatnonzero(found["record"])
        slots = (
            Slot(int(number), record - 1, length, step, checksum)
            for number, (record, length, step, checksum) in zip(
                numbers, found[numbers].tolist(), strict=True
            )
        )
        return [
            slot
            for slot in slots
            if slot.index < _LARGEST_NUMBER
            and slot.step < _LARGEST_STEP
            and slot.length <= self._longest
        ]

    def pending(self) -> tuple[int, int]:
        """Return how many records there are, and their bytes."""
        table = self._table()
        used = table["record"] != 0
        return int(used.sum()), int(table["length"][used].sum())

    def holds(self, slot: Slot) -> bool:
        """Whether a slot still has the record that it had."""
        begin = _entry_at(slot.number)
        (entry,) = np.frombuffer(self.read(begin, _ENTRY.itemsize), _ENTRY)
        return bool(entry["record"] == slot.index + 1 and entry["checksum"] == slot.checksum)

    def is_whole(self, slot: Slot) -> bool:
        """Whether the bytes in a slot are those of its record."""
        begins = range(0, slot.length, _HASHED_AT_ONCE)
        begin = self.size.slot_at(slot.number)
        sizes = (min(_HASHED_AT_ONCE, slot.length - start) for start in begins)
        return slot.is_of(
            memoryview(self.read(begin + start, size))
            for start, size in zip(begins, sizes, strict=True)
        )

    def copy(self, slot: Slot) -> memoryview:
        """Return a copy of the bytes in a slot, which may be those of another record by then."""
        return memoryview(self.read(self.size.slot_at(slot.number), slot.length))

    def release(self, slots: Iterable[Slot]) -> None:
        """Give slots back to the writer."""
        free = memoryview(bytes(_NUMBER_BYTES))
        descriptor = open_to_write(self.path, emptied=False)
        try:
            for slot in slots:
                write_at(descriptor, _entry_at(slot.number), [free])
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the file, which some systems do not delete before."""
        self._close()

    def read(self, begin: int, length: int) -> bytearray:
        """Return bytes of the file."""
        content = bytearray(length)
        self.read_into(begin, memoryview(content))
        return content

    def read_into(self, begin: int, target: memoryview) -> None:
        """Read bytes of the file from position `begin` on."""
        if IS_POSIX:
            read_exactly(self._descriptor, begin, target)
            return
        read_alone(self.path, begin, target, holes=True)

    def _table(self) -> npt.NDArray[Any]:
        content = self.read(_HEAD, self.size.slots * _ENTRY.itemsize)
        return np.frombuffer(content, _ENTRY)

    def _damaged(self, why: str) -> DamagedTraceError:
        return DamagedTraceError(
            f"{self.path} is no ring of records that this version reads ({why}); move it away and "
            "run 'steptrace recover' to keep the steps that are not in it"
        )
