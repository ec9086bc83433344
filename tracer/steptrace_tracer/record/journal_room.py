"""What the journal may take within the policy's ``disk_limit``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from steptrace_schema.errors import DiskLimitError
from steptrace_schema.human import human_bytes

if TYPE_CHECKING:
    from steptrace_schema.format.disk_limit import DiskLimit
    from steptrace_schema.journal.declaration import Declaration
    from steptrace_schema.journal.writer import JournalWriter

_DECLARATIONS: Final = 3
"""The declaration, the one that takes its place, and how the run ended."""
_LOG_BYTES: Final = 16 * 2**10
_STORE_DECLARATIONS: Final = 4
_ARRAY_BYTES: Final = 8000
"""Metadata of an array, and their copy in the root."""


class JournalRoom:
    """Says whether a record has room in the journal, now or ever.

    Parameters
    ----------
    limit
        What journal and store may take.
    """

    def __init__(self, limit: DiskLimit) -> None:
        self.limit = limit
        self._declared = 0
        self._pending_at_most = 0

    def declare(self, declaration: Declaration) -> None:
        """Leave room for a declaration."""
        self._declared = len(declaration.to_json().encode())

    def require(self, declaration: Declaration, step: int, size: int) -> None:
        """Raise if a trace of such records has no room at all.

        Parameters
        ----------
        declaration
            What is declared before the record.
        step, size
            The record's step, and its bytes.

        Raises
        ------
        DiskLimitError
            With the smallest limit that would do.
        """
        self.declare(declaration)
        store = self._store(len(declaration.arrays))
        if size <= self.limit.largest_record(self._besides) and store <= self.limit.store:
            return
        least = self.limit.least(size, self._besides - self.limit.ballast, store)
        msg = (
            f"step {step} takes {human_bytes(size)} before encoding, which {self.limit} has no "
            f"room for; set it to at least {human_bytes(1.01 * least)}, or record less"
        )
        raise DiskLimitError(msg)

    def has_room_without_steps(self, declaration: Declaration) -> bool:
        """Whether a trace without a step has room, which only says why there is none."""
        self.declare(declaration)
        return self._besides <= self.limit.journal and self._store(0) <= self.limit.store

    def is_full(self, journal: JournalWriter, size: int) -> bool:
        """Whether a record has to wait until others are in the store."""
        room = self.limit.journal - self._besides - size
        if self._pending_at_most > room:
            self._pending_at_most = journal.pending_bytes()
        return self._pending_at_most > room

    def no_room_for_two(self) -> DiskLimitError:
        """Return the error for a record that has no room beside the one before."""
        msg = f"{self.limit} has no room for two records; set it higher, or record less"
        return DiskLimitError(msg)

    def take(self, size: int) -> None:
        """Count a record that has been written."""
        self._pending_at_most += size

    @property
    def _besides(self) -> int:
        return self.limit.ballast + _DECLARATIONS * self._declared + _LOG_BYTES

    def _store(self, arrays: int) -> int:
        return _STORE_DECLARATIONS * self._declared + _ARRAY_BYTES * arrays + _LOG_BYTES
