"""What waits in a journal to be moved: the records in its ring, and those in files of their own."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from steptrace_schema.journal.place import FilePlace, Place, SlotPlace
from steptrace_schema.journal.ring import RING_FILE, Ring

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

RECORD_SUFFIX: Final = ".safetensors"
"""File name ending of a record."""
INCIDENT_SUFFIX: Final = ".incident"
"""File name ending of a step that is kept as a whole, beside the records."""

FINAL_FILE: Final = "weights.final"
"""The weights that the model ended with, where the last step left others."""

_RECORD: Final = re.compile(rf"(\d{{8}}|[1-9]\d{{8,11}}){re.escape(RECORD_SUFFIX)}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Pending:
    """What is not yet in the store: how many records, and the bytes of all files.

    Steps that are kept as a whole are no records, but take bytes.
    """

    records: int
    nbytes: int


class PendingRecords:
    """Looks again and again at what waits in a journal.

    The size of a file never changes, so it is asked for once: that takes several times as long
    as to see that the file is there.

    Parameters
    ----------
    directory
        Folder of the journal, which may be gone.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sizes: dict[str, int] = {}
        self._ring: Ring | None = None

    def look(self) -> Pending:
        """Return how much waits now."""
        ring = self.ring()
        records, nbytes = (0, 0) if ring is None else ring.pending()
        known, self._sizes = self._sizes, {}
        with suppress(FileNotFoundError):  # the recorder has just finished
            for name in os.listdir(self._directory):  # noqa: PTH208
                if name.endswith((RECORD_SUFFIX, INCIDENT_SUFFIX)) or name == FINAL_FILE:
                    with suppress(FileNotFoundError):  # the recorder has just moved it
                        self._sizes[name] = known.get(name) or self._size(name)
        records += sum(name.endswith(RECORD_SUFFIX) for name in self._sizes)
        return Pending(records, nbytes + sum(self._sizes.values()))

    def places(self) -> list[Place]:
        """Return where the records are, in order, none of which follows one that is not seen yet.

        A slot whose writer was torn from it is a place too; whether it holds what it says has to
        be found out.
        """
        found = self._places()
        indices = sorted(found)
        if any(after > before + 1 for before, after in itertools.pairwise(indices)):
            # One that was written while the others were looked at is seen by another look, and
            # what is missing then has been moved, or taken away.
            last = indices[-1]
            found = {index: place for index, place in self._places().items() if index <= last}
        return [found[index] for index in sorted(found)]

    def ring(self) -> Ring | None:
        """Return the ring, None where there is none."""
        if self._ring is None:
            with suppress(FileNotFoundError):
                self._ring = Ring(self._directory / RING_FILE)
        return self._ring

    def close(self) -> None:
        """Close the ring, which some systems do not delete before."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def _places(self) -> dict[int, Place]:
        ring = self.ring()
        slots = [] if ring is None else [SlotPlace(ring, slot) for slot in ring.slots()]
        names = filter(_RECORD.fullmatch, os.listdir(self._directory))  # noqa: PTH208
        files: Iterable[Place] = (FilePlace(self._directory / name) for name in names)
        return {place.index: place for place in (*files, *slots)}

    def _size(self, name: str) -> int:
        return os.stat(f"{self._directory}/{name}").st_size  # noqa: PTH116
