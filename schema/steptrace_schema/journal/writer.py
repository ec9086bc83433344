"""Writing a journal: one record for each step, and what the records contain."""

from __future__ import annotations

import json
import os
import weakref
from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.errors import TraceExistsError
from steptrace_schema.format.disk_limit import BALLAST, DiskLimit
from steptrace_schema.journal.described_file import incident_path, write_described
from steptrace_schema.journal.folder import (
    BALLAST_FILE,
    CLOSED_FILE,
    DECLARATION_FILE,
    STOPPED_FILE,
    write_atomically,
)
from steptrace_schema.journal.pending import FINAL_FILE, RECORD_SUFFIX, PendingRecords
from steptrace_schema.journal.record_file import (
    record_file_bytes,
    record_parts,
    record_rows,
    write_record_file,
)
from steptrace_schema.journal.ring import RING_FILE, RingSize
from steptrace_schema.journal.ring_writer import RingWriter
from steptrace_schema.names import STEP, Status
from steptrace_schema.storage.durability import make_folder, persistence
from steptrace_schema.storage.locks import hold_as_writer
from steptrace_schema.storage.posix import require_recording

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from steptrace_schema.format.attributes import FinalWeights, Incident, TraceAttributes
    from steptrace_schema.format.policy import Durability
    from steptrace_schema.journal.declaration import Declaration


_SMALL_BYTES: Final = 2**16
"""A record that is copied once more, which takes less time than to handle its parts."""


class JournalWriter:
    """Appends records to a journal.

    Parameters
    ----------
    directory
        An existing journal, as :meth:`create` makes it.
    first
        Index of its first record: how many the store has of earlier journals.
    durability
        What a record survives once it is appended.

    Attributes
    ----------
    appended_bytes
        Bytes of the files of all records that were appended.
    """

    def __init__(self, directory: Path, first: int = 0, durability: Durability = "process") -> None:
        self.directory = directory
        self._lasting = persistence(durability)
        self._pending = PendingRecords(directory)
        self._ring: RingWriter | None = None
        self.appended_bytes = 0
        self._next = first  # a journal has one writer, and each time it records a new one
        self._release = weakref.finalize(self, os.close, hold_as_writer(directory))

    @classmethod
    def create(cls, directory: Path, declaration: Declaration) -> JournalWriter:
        """Make the folder and write `declaration` into it.

        Records are counted on from those that the declaration says are in the store.

        Raises
        ------
        TraceExistsError
            If the folder exists.
        TraceError
            If this system cannot record.
        """
        require_recording()
        try:
            grown = make_folder(directory)
        except FileExistsError as error:
            msg = (
                f"{directory} has just been made by another training, which writes to the same "
                "path; choose another path for this one"
            )
            raise TraceExistsError(msg) from error
        attributes = declaration.attributes
        writer = cls(directory, attributes.records, attributes.policy.durability)
        for folder in grown:
            writer._lasting.names(folder)
        limit = DiskLimit.of(attributes.policy)
        (directory / BALLAST_FILE).write_bytes(bytes(BALLAST if limit is None else limit.ballast))
        writer.declare(declaration)
        return writer

    def declare(self, declaration: Declaration) -> None:
        """Replace the declaration; call it before a record that needs a new or larger array."""
        write_atomically(self.directory / DECLARATION_FILE, declaration.to_json(), self._lasting)

    def make_ring(self, size: RingSize) -> None:
        """Make a ring of slots, which records are written into from here on where one has room.

        Where the system does not allow so large a file, records have files of their own.
        """
        path = self.directory / RING_FILE
        try:
            self._ring = RingWriter(path, size, self._lasting)
        except OSError:  # such as a limit on the size of files, which sparse ones count for in full
            path.with_name(path.name + ".partial").unlink(missing_ok=True)

    @staticmethod
    def size(step: int, arrays: Mapping[str, npt.NDArray[Any]]) -> int:
        """Return the bytes of the file that :meth:`append` writes."""
        return record_file_bytes(arrays, {STEP: str(step)})

    def append(self, step: int, arrays: Mapping[str, npt.NDArray[Any]]) -> int:
        """Write one record and return the bytes of its arrays.

        Parameters
        ----------
        step
            The step that all of `arrays` belong to.
        arrays
            ``kind/path`` to array, without the step dimension.
        """
        head, buffers = record_parts(arrays, {})
        nbytes = sum(map(len, buffers))
        size = len(head) + nbytes
        parts = [head, *buffers]
        if size <= _SMALL_BYTES:
            parts = [memoryview(b"".join(parts))]
        if self._ring is None or not self._ring.put(self._next, step, parts):
            size = self._append_file(step, arrays)
        self.appended_bytes += size
        self._next += 1
        return nbytes

    def append_rows(self, step: int, arrays: Mapping[str, npt.NDArray[Any]]) -> int:
        """Write the records of consecutive steps, and return the bytes of their arrays.

        Parameters
        ----------
        step
            The first step.
        arrays
            ``kind/path`` to array, dims (step, ...).
        """
        count = len(next(iter(arrays.values())))
        nbytes = sum(values.nbytes for values in arrays.values())
        if self._ring is not None and nbytes <= count * _SMALL_BYTES:
            rows = record_rows(arrays)
            if self._ring.put_rows(self._next, step, rows):
                self.appended_bytes += rows.nbytes
                self._next += count
                return nbytes
        for row in range(count):
            self.append(step + row, {key: values[row] for key, values in arrays.items()})
        return nbytes

    def _append_file(self, step: int, arrays: Mapping[str, npt.NDArray[Any]]) -> int:
        path = self.directory / f"{self._next:08d}{RECORD_SUFFIX}"
        temporary = path.with_suffix(".partial")
        try:
            write_record_file(temporary, arrays, {STEP: str(step)})
            self._lasting.file(temporary)
            size = temporary.stat().st_size  # the recorder may move it once it has its name
            temporary.replace(path)
            self._lasting.names(self.directory)
        except BaseException:
            temporary.unlink(missing_ok=True)  # on a full disk, the room is needed
            raise
        return size

    def keep(self, incident: Incident, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write a step that is kept as a whole, as :func:`write_described` does."""
        path = incident_path(self.directory, incident.step)
        write_described(path, incident, arrays, self._lasting)

    def keep_final(self, final: FinalWeights, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write the weights that the model ends with, as :func:`write_described` does."""
        write_described(self.directory / FINAL_FILE, final, arrays, self._lasting)

    def close(self, status: Status, reason: str | None, attributes: TraceAttributes) -> None:
        """Say how the run ended; `attributes` replace the declared ones.

        On a disk that is full there is room for this: what was kept free when the journal was made.
        """
        text = json.dumps(
            {"status": status, "reason": reason, "attributes": attributes.model_dump(mode="json")},
            allow_nan=False,
        )
        try:
            (self.directory / BALLAST_FILE).unlink(missing_ok=True)
            write_atomically(self.directory / CLOSED_FILE, text, self._lasting)
        finally:
            self._release()

    def stopped(self) -> str | None:
        """Return why nothing more is moved into the store, as :meth:`JournalReader.stop` said."""
        try:
            return (self.directory / STOPPED_FILE).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def pending_records(self) -> int:
        """Return how many records are not yet in the store."""
        return self._pending.look().records

    def pending_bytes(self) -> int:
        """Return the bytes of the files of records that are not yet in the store."""
        return self._pending.look().nbytes
