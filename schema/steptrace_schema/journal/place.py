"""Where the bytes of a record are: in a file of its own, in a slot of the ring, or in memory."""

from __future__ import annotations

import abc
import dataclasses
import functools
import os
import weakref
from typing import TYPE_CHECKING, final

from steptrace_schema.storage.names import open_to_read, read_alone
from steptrace_schema.storage.posix import IS_POSIX, read_exactly

if TYPE_CHECKING:
    from pathlib import Path

    from steptrace_schema.journal.ring import Ring, Slot


class Place(abc.ABC):
    """The bytes of one record, in the format of a safetensors file.

    Attributes
    ----------
    path
        The file that they are in, named in errors.
    index
        Number of the record.
    step
        The step that it is of; None where the bytes themselves say it.
    """

    path: Path
    index: int
    step: int | None

    @property
    @abc.abstractmethod
    def nbytes(self) -> int:
        """How many bytes there are."""

    @abc.abstractmethod
    def read(self, begin: int, target: memoryview) -> None:
        """Fill `target` with the bytes from position `begin` on.

        Raises
        ------
        FileNotFoundError
            If they are gone.
        ValueError
            If they end before.
        """

    def rest(self) -> None:  # noqa: B027
        """Keep no file open until the next read."""

    @abc.abstractmethod
    def is_there(self) -> bool:
        """Whether the record is still in its place."""


@final
class FilePlace(Place):
    """A file of its own, as every record of a journal of version 0.1 has."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = int(path.stem)
        self.step = None
        self._close: weakref.finalize[..., FilePlace] | None = None
        self._descriptor = -1

    @functools.cached_property
    def nbytes(self) -> int:
        """How many bytes there are."""
        return self.path.stat().st_size

    def read(self, begin: int, target: memoryview) -> None:
        """Fill `target` with the bytes from position `begin` on."""
        if not IS_POSIX:  # an open file could not be deleted
            read_alone(self.path, begin, target)
            return
        if self._close is None:
            self._descriptor = open_to_read(self.path)
            self._close = weakref.finalize(self, os.close, self._descriptor)
        read_exactly(self._descriptor, begin, target)

    def rest(self) -> None:
        """Keep no file open until the next read."""
        if self._close is not None:
            self._close()
            self._close = None

    def is_there(self) -> bool:
        """Whether the record is still in its place."""
        return self.path.exists()


@final
class SlotPlace(Place):
    """A slot of the ring."""

    def __init__(self, ring: Ring, slot: Slot) -> None:
        self.path = ring.path
        self.index = slot.index
        self.step = slot.step
        self.ring = ring
        self.slot = slot
        self._begin = ring.size.slot_at(slot.number)

    @property
    def nbytes(self) -> int:
        """How many bytes there are."""
        return self.slot.length

    def read(self, begin: int, target: memoryview) -> None:
        """Fill `target` with the bytes from position `begin` on."""
        _refuse_beyond(self.slot.length, begin, len(target))
        self.ring.read_into(self._begin + begin, target)

    def is_there(self) -> bool:
        """Whether the record is still in its place."""
        return self.ring.holds(self.slot)


@final
@dataclasses.dataclass
class MemoryPlace(Place):
    """A copy in memory, which lasts while the slot that it is of is used again."""

    path: Path
    index: int
    step: int | None
    content: memoryview

    @property
    def nbytes(self) -> int:
        """How many bytes there are."""
        return len(self.content)

    def read(self, begin: int, target: memoryview) -> None:
        """Fill `target` with the bytes from position `begin` on."""
        _refuse_beyond(len(self.content), begin, len(target))
        target[:] = self.content[begin : begin + len(target)]

    def is_there(self) -> bool:
        """Whether the record is still in its place."""
        return True


def _refuse_beyond(nbytes: int, begin: int, length: int) -> None:
    if begin + length > nbytes:
        msg = f"it ends after {nbytes} bytes"
        raise ValueError(msg)
