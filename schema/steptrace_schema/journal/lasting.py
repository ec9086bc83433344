"""Steps of a journal that can be read although they have been moved into the store since."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from steptrace_schema.journal.place import MemoryPlace, SlotPlace
from steptrace_schema.journal.record import Record, step_number, unreadable
from steptrace_schema.names import STEP
from steptrace_schema.storage.names import open_to_read

if TYPE_CHECKING:
    from collections.abc import Set
    from pathlib import Path

    import numpy.typing as npt

    from steptrace_schema.journal.place import Place


class MappedRecord:
    """One step of a journal that can be read although its file has been deleted since.

    The file is mapped into memory, which keeps it, without a file descriptor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = int(path.stem)
        try:
            os.close(open_to_read(path))  # the package would wait for a pipe
            file: Any = safe_open(path, framework="np")  # Any: the package has no types for it
            self.nbytes = path.stat().st_size
            self.step = step_number(file.metadata()[STEP])
            self.keys: Set[str] = frozenset(file.keys())
        except (SafetensorError, FileNotFoundError, KeyError, TypeError, ValueError) as error:
            raise unreadable(path, error) from error
        self._file = file

    def read(self, key: str) -> npt.NDArray[Any]:
        """Return the array ``kind/path`` of this step."""
        try:
            array: npt.NDArray[Any] = self._file.get_tensor(key)
        except (SafetensorError, TypeError, KeyError, AttributeError) as error:
            raise unreadable(self.path, error) from error
        return array


LastingRecord = MappedRecord | Record


def lasting(place: Place) -> LastingRecord | None:
    """Return the record in a place; None where its writer was torn from it, so that there is none.

    A file is mapped, and a slot of the ring is copied, because it will be used again.

    Raises
    ------
    DamagedTraceError
        If it is no record, or has been moved away meanwhile.
    """
    if not isinstance(place, SlotPlace):
        return MappedRecord(place.path)
    content = place.ring.copy(place.slot)
    if place.slot.is_of([content]):
        return Record(MemoryPlace(place.path, place.index, place.step, content))
    if place.is_there():
        return None
    raise unreadable(place.path, ValueError("its slot is used for another one by now"))
