"""The ring of a journal: slots of one file that records are written into again and again.

A fresh file for each record needs new memory of the page cache, a name, and its removal; that costs
more than to write the record. A slot is free again as soon as its record is in the store. What a
slot holds counts from the moment that its entry in the table is written, with the number, the
length and a checksum of the record, so that what was torn is never taken for a record.
"""

from __future__ import annotations

import dataclasses
import os
import weakref
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.storage.names import open_to_read, open_to_write, read_alone
from steptrace_schema.storage.posix import IS_POSIX, read_exactly, write_at

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy.typing as npt

RING_FILE: Final = "ring"

RING_MAGIC: Final = b"steptrace ring 1"
NUMBER: Final = "<u8"
NUMBER_BYTES: Final = 8
_HEAD: Final = 32
ENTRY: Final = np.dtype(
    [("record", NUMBER), ("length", NUMBER), ("step", NUMBER), ("checksum", NUMBER)]
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
        slots = min(MOST_SLOTS, max(0, room - 2 * _PAGE) // (slot_bytes + ENTRY.itemsize))
        return cls(slots, slot_bytes) if slots > 1 else None

    @property
    def first_slot(self) -> int:
        """Where the first slot begins in the file."""
        return _whole_pages(_HEAD + self.slots * ENTRY.itemsize)

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self.first_slot + self.slots * self.slot_bytes

    def slot_at(self, slot: int) -> int:
        """Return where a slot begins in the file."""
        return self.first_slot + slot * self.slot_bytes


def _whole_pages(nbytes: int) -> int:
    return -(-nbytes // _PAGE) * _PAGE


def entry_at(slot: int) -> int:
    """Return where what the table says of a slot begins in the file."""
    return _HEAD + slot * ENTRY.itemsize


def record_checksum(fields: bytes, buffers: Iterable[memoryview]) -> int:
    """Return the checksum of a record.

    Parameters
    ----------
    fields
        What the table says of it before the checksum.
    buffers
        Its bytes, in order.
    """
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
        fields = np.array([self.index + 1, self.length, self.step], NUMBER).tobytes()
        return record_checksum(fields, buffers) == self.checksum


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
        slots, slot_bytes = (int(n) for n in np.frombuffer(head, NUMBER)[2:])
        self.size = RingSize(slots, slot_bytes)
        status = os.fstat(self._descriptor)
        # Python's integers do not overflow, whatever the file claims.
        if (
            head[: len(RING_MAGIC)] != RING_MAGIC
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
        begin = entry_at(slot.number)
        (entry,) = np.frombuffer(self.read(begin, ENTRY.itemsize), ENTRY)
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
        free = memoryview(bytes(NUMBER_BYTES))
        descriptor = open_to_write(self.path, emptied=False)
        try:
            for slot in slots:
                write_at(descriptor, entry_at(slot.number), [free])
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
        content = self.read(_HEAD, self.size.slots * ENTRY.itemsize)
        return np.frombuffer(content, ENTRY)

    def _damaged(self, why: str) -> DamagedTraceError:
        return DamagedTraceError(
            f"{self.path} is no ring of records that this version reads ({why}); move it away and "
            "run 'steptrace recover' to keep the steps that are not in it"
        )
