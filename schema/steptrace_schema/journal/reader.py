"""The journal: steps on local disk that are not yet in the store.

One folder beside the store. A record is one step's arrays as a safetensors file, in a slot of the
journal's ring, or in a file of its own where the ring has no room for it.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from pydantic import ValidationError

from steptrace_schema.errors import DamagedTraceError, TraceError
from steptrace_schema.journal.declaration import Closing, Declaration
from steptrace_schema.journal.folder import (
    CLOSED_FILE,
    DECLARATION_FILE,
    NOTED_FILE,
    STOPPED_FILE,
    is_of_a_journal,
    read_text,
    write_atomically,
)
from steptrace_schema.journal.pending import Pending, PendingRecords
from steptrace_schema.journal.place import SlotPlace
from steptrace_schema.storage.durability import persistence
from steptrace_schema.storage.locks import live_writer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from steptrace_schema.format.policy import Durability
    from steptrace_schema.journal.place import Place


def _does_not_say(path: Path, error: Exception) -> DamagedTraceError:
    return DamagedTraceError(
        f"{path} does not say how the run ended ({_first_line(error)}); move it away and "
        "run 'steptrace recover', which then treats the run as killed"
    )


def _first_line(error: Exception) -> str:
    """Return what is wrong with a file, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"'{'.'.join(str(part) for part in first['loc'])}': {first['msg']}"
    return f"{type(error).__name__}: {error}".splitlines()[0]


class JournalReader:
    """Reads a journal, whether or not it is still being written.

    Parameters
    ----------
    directory
        Its folder.
    checks
        Whether to compare every record with its checksum. There is no need to while the machine
        has been running since it was written, however its writer may have ended.

    Attributes
    ----------
    torn
        Numbers of the records that were found not to be as they were written: those that a loss of
        power reached.
    """

    def __init__(self, directory: Path, *, checks: bool = True) -> None:
        self.directory = directory
        self.torn: set[int] = set()
        self._pending = PendingRecords(directory)
        self._checks = checks
        self._whole: set[int] = set()

    @property
    def exists(self) -> bool:
        """Whether there is a journal."""
        return (self.directory / DECLARATION_FILE).is_file()

    @property
    def is_leftover(self) -> bool:
        """Whether the folder is what a crash left of a journal: no declaration, so no data."""
        return (
            self.directory.is_dir()
            and not self.exists
            and all(is_of_a_journal(path.name) for path in self.directory.iterdir())
        )

    def declaration(self) -> Declaration:
        """Read the declaration.

        Raises
        ------
        DamagedTraceError
            If it cannot be understood.
        """
        path = self.directory / DECLARATION_FILE
        try:
            return Declaration.from_json(read_text(path))
        except (OSError, KeyError, TypeError, ValueError, ValidationError) as error:
            msg = (
                f"{path} is not a readable journal declaration ({_first_line(error)}); put a copy "
                f"of it back, or move {self.directory} away to continue with what the store has"
            )
            raise DamagedTraceError(msg) from error

    def closing(self) -> Closing | None:
        """Return how the run ended, or None where it has not, or was killed."""
        path = self.directory / CLOSED_FILE
        try:
            text = read_text(path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise _does_not_say(path, error) from error
        try:
            return Closing.from_json(text)
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise _does_not_say(path, error) from error

    def writer(self) -> int | None:
        """Return the number of the process that is writing the journal, None where none will."""
        return None if (self.directory / CLOSED_FILE).exists() else live_writer(self.directory)

    def refuse_writer(self, *, own: bool) -> None:
        """Make sure that no training writes the journal.

        Parameters
        ----------
        own
            Whether a training of this very process counts.

        Raises
        ------
        TraceError
            If one does.
        """
        writer = self.writer()
        if writer is not None and (own or writer != os.getpid()):
            msg = (
                f"{self.directory} is being written by a training that is still running (process "
                f"{writer}); wait until it has ended, or end it, and try again"
            )
            raise TraceError(msg)

    def pending(self) -> Pending:
        """Return what is not yet in the store."""
        return self._pending.look()

    def stop(self, reason: str) -> None:
        """Tell the writer that nothing more is moved into the store, and why."""
        write_atomically(self.directory / STOPPED_FILE, reason, persistence("process"))

    def note(self, text: str, durability: Durability) -> None:
        """Keep what moving the records that are left needs of those that will be deleted."""
        write_atomically(self.directory / NOTED_FILE, text, persistence(durability))

    def noted(self) -> str | None:
        """Return what was noted last; None if nothing was.

        Raises
        ------
        ValueError
            If it is no text.
        """
        try:
            return read_text(self.directory / NOTED_FILE)
        except FileNotFoundError:
            return None

    def places(self, start: int = 0) -> list[Place]:
        """Return where the records with index `start` or later are, in order."""
        places = [place for place in self._pending.places() if place.index >= start]
        return [place for place in places if not self._checks or self._is_whole(place)]

    def _is_whole(self, place: Place) -> bool:
        if isinstance(place, SlotPlace) and place.index not in self._whole:
            if not place.ring.is_whole(place.slot):
                self.torn.add(place.index)
                return False
            self._whole.add(place.index)
        return True

    def release(self, places: Iterable[Place]) -> None:
        """Give up records that are in the store."""
        places = list(places)
        if slots := [place for place in places if isinstance(place, SlotPlace)]:
            slots[0].ring.release(place.slot for place in slots)
        for place in places:
            if not isinstance(place, SlotPlace):
                place.path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete the journal; everything in it must be in the store."""
        # Without its declaration it is no journal any more, whatever is left of it after a crash.
        (self.directory / DECLARATION_FILE).unlink()
        self._pending.close()
        # The rest may hold what a killed writer left under a temporary name.
        shutil.rmtree(self.directory)
