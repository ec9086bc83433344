"""The journal: steps on local disk that are not yet in the store.

One folder beside the store. A record is one step's arrays in a safetensors file, written under a
temporary name and renamed, so it is there whole or not at all.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import weakref
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from steptrace_schema.errors import DamagedTraceError, TraceError, TraceExistsError
from steptrace_schema.format.attributes import TraceAttributes
from steptrace_schema.format.disk_limit import BALLAST, DiskLimit
from steptrace_schema.format.layout import ArraySpec
from steptrace_schema.journal.pending import RECORD_SUFFIX, Pending, PendingRecords
from steptrace_schema.journal.record_file import (
    HEAD_BYTES,
    read_bytes,
    read_header,
    record_file_bytes,
    write_record_file,
)
from steptrace_schema.names import STEP, Status
from steptrace_schema.storage.durability import Durability, Persistence, make_folder, persistence
from steptrace_schema.storage.location import journal_path as journal_path
from steptrace_schema.storage.locks import MOVER, WRITER, hold_as_writer, live_writer

if TYPE_CHECKING:
    from collections.abc import Mapping, Set
    from pathlib import Path

    import numpy.typing as npt

_DECLARATION: Final = "declaration.json"
_CLOSED: Final = "closed.json"
_STOPPED: Final = "stopped.txt"
_NOTED: Final = "noted.json"
_BALLAST: Final = "ballast"
RECORDER_LOG: Final = "recorder.log"
"""What the recorder process said."""


@dataclasses.dataclass(frozen=True)
class Declaration:
    """What a journal's records contain: the trace's attributes and the table of its arrays."""

    attributes: TraceAttributes
    arrays: tuple[ArraySpec, ...]

    def to_json(self) -> str:
        """Return the declaration as strict JSON."""
        fields = {
            "attributes": self.attributes.model_dump(mode="json"),
            "arrays": [spec.to_dict() for spec in self.arrays],
        }
        return json.dumps(fields, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Declaration:
        """Rebuild a declaration from :meth:`to_json`."""
        fields = json.loads(text)
        return cls(
            TraceAttributes.model_validate(fields["attributes"]),
            tuple(ArraySpec.from_dict(spec) for spec in fields["arrays"]),
        )


@dataclasses.dataclass(frozen=True)
class Closing:
    """How a run ended."""

    status: Status
    reason: str | None
    attributes: TraceAttributes


def _write_atomically(path: Path, text: str, lasting: Persistence) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    lasting.file(temporary)
    temporary.replace(path)
    lasting.names(path.parent)


def _is_of_a_journal(name: str) -> bool:
    known = (_DECLARATION, _CLOSED, _STOPPED, _NOTED, _BALLAST, RECORDER_LOG, MOVER, WRITER)
    return name in known or name.endswith((RECORD_SUFFIX, ".partial")) or name.startswith(".tmp")


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
        """
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
        (directory / _BALLAST).write_bytes(bytes(BALLAST if limit is None else limit.ballast))
        writer.declare(declaration)
        return writer

    def declare(self, declaration: Declaration) -> None:
        """Replace the declaration; call it before a record that needs a new or larger array."""
        _write_atomically(self.directory / _DECLARATION, declaration.to_json(), self._lasting)

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
        path = self.directory / f"{self._next:08d}{RECORD_SUFFIX}"
        temporary = path.with_suffix(".partial")
        try:
            nbytes = write_record_file(temporary, arrays, {STEP: str(step)})
            self._lasting.file(temporary)
            size = temporary.stat().st_size  # the recorder may move it once it has its name
            temporary.replace(path)
            self._lasting.names(self.directory)
        except BaseException:
            temporary.unlink(missing_ok=True)  # on a full disk, the room is needed
            raise
        self.appended_bytes += size
        self._next += 1
        return nbytes

    def close(self, status: Status, reason: str | None, attributes: TraceAttributes) -> None:
        """Say how the run ended; `attributes` replace the declared ones.

        On a disk that is full there is room for this: what was kept free when the journal was made.
        """
        text = json.dumps(
            {"status": status, "reason": reason, "attributes": attributes.model_dump(mode="json")},
            allow_nan=False,
        )
        try:
            (self.directory / _BALLAST).unlink(missing_ok=True)
            _write_atomically(self.directory / _CLOSED, text, self._lasting)
        finally:
            self._release()

    def stopped(self) -> str | None:
        """Return why nothing more is moved into the store, as :meth:`JournalReader.stop` said."""
        try:
            return (self.directory / _STOPPED).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def pending_records(self) -> int:
        """Return how many records are not yet in the store."""
        return self._pending.look().records

    def pending_bytes(self) -> int:
        """Return the bytes of the files of records that are not yet in the store."""
        return self._pending.look().nbytes


class Record:
    """One step of a journal, read from its file when an array is asked for.

    The file has to be there until the first array is asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = int(path.stem)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                metadata, self._arrays = read_header(descriptor)
            finally:
                os.close(descriptor)  # many records may wait, and few files be open at a time
            self.step = int(metadata[STEP])
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise _unreadable(path, error) from error
        self.keys: Set[str] = self._arrays.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of the array ``kind/path`` of this step."""
        return self._arrays[key].shape

    def read(self, key: str) -> npt.NDArray[Any]:
        """Return the array ``kind/path`` of this step."""
        stored = self._arrays[key]
        array = np.empty(stored.shape, stored.dtype)
        self._read_bytes(stored.begin, array.reshape(-1).view(np.uint8).data)
        return array

    def read_into(self, key: str, array: npt.NDArray[Any]) -> None:
        """Read the array ``kind/path`` of this step into `array`, contiguous and of its size.

        For one who reads all arrays: the small ones are read together, and kept.
        """
        stored = self._arrays[key]
        if stored.dtype != array.dtype:
            array[...] = self.read(key)
            return
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
            read_bytes(self._descriptor, begin, target)
        except (FileNotFoundError, ValueError) as error:
            raise _unreadable(self.path, error) from error

    @functools.cached_property
    def _descriptor(self) -> int:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
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
            self.step = int(file.metadata()[STEP])
            self.keys: Set[str] = frozenset(file.keys())
        except (SafetensorError, FileNotFoundError, KeyError, TypeError, ValueError) as error:
            raise _unreadable(path, error) from error
        self._file = file

    def read(self, key: str) -> npt.NDArray[Any]:
        """Return the array ``kind/path`` of this step."""
        array: npt.NDArray[Any] = self._file.get_tensor(key)
        return array


def _unreadable(path: Path, error: Exception) -> DamagedTraceError:
    return DamagedTraceError(
        f"{path} is not a readable journal record ({error}); move it away and run "
        "'steptrace recover' to keep the steps before and after it"
    )


def _first_line(error: Exception) -> str:
    """Return what is wrong with a file, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"'{'.'.join(str(part) for part in first['loc'])}': {first['msg']}"
    return f"{type(error).__name__}: {error}".splitlines()[0]


class JournalReader:
    """Reads a journal, whether or not it is still being written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._pending = PendingRecords(directory)

    @property
    def exists(self) -> bool:
        """Whether there is a journal."""
        return (self.directory / _DECLARATION).is_file()

    @property
    def is_leftover(self) -> bool:
        """Whether the folder is what a crash left of a journal: no declaration, so no data."""
        return (
            self.directory.is_dir()
            and not self.exists
            and all(_is_of_a_journal(path.name) for path in self.directory.iterdir())
        )

    def declaration(self) -> Declaration:
        """Read the declaration.

        Raises
        ------
        DamagedTraceError
            If it cannot be understood.
        """
        path = self.directory / _DECLARATION
        try:
            return Declaration.from_json(path.read_text(encoding="utf-8"))
        except (OSError, KeyError, TypeError, ValueError, ValidationError) as error:
            msg = (
                f"{path} is not a readable journal declaration ({_first_line(error)}); put a copy "
                f"of it back, or move {self.directory} away to go on with what the store has"
            )
            raise DamagedTraceError(msg) from error

    def closing(self) -> Closing | None:
        """Return how the run ended, or None where it has not, or was killed."""
        path = self.directory / _CLOSED
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            fields = json.loads(text)
            attributes = TraceAttributes.model_validate(fields["attributes"])
            return Closing(fields["status"], fields["reason"], attributes)
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            msg = (
                f"{path} does not say how the run ended ({_first_line(error)}); move it away and "
                "run 'steptrace recover', which then takes the run for one that was killed"
            )
            raise DamagedTraceError(msg) from error

    def writer(self) -> int | None:
        """Return the number of the process that is writing the journal, None where none will."""
        return None if (self.directory / _CLOSED).exists() else live_writer(self.directory)

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
        _write_atomically(self.directory / _STOPPED, reason, persistence("process"))

    def note(self, text: str, durability: Durability) -> None:
        """Keep what moving the records that are left needs of those that will be deleted."""
        _write_atomically(self.directory / _NOTED, text, persistence(durability))

    def noted(self) -> str | None:
        """Return what was noted last; None if nothing was."""
        try:
            return (self.directory / _NOTED).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def paths(self, start: int = 0) -> list[Path]:
        """Return the record files with index `start` or later, in order."""
        found = os.listdir(self.directory)  # noqa: PTH208
        names = sorted(name for name in found if name.endswith(RECORD_SUFFIX))
        indices = [name.removesuffix(RECORD_SUFFIX) for name in names]
        return [
            self.directory / name
            for name, index in zip(names, indices, strict=True)
            if index.isdecimal() and int(index) >= start
        ]

    def clear(self) -> None:
        """Delete the journal; everything in it must be in the store."""
        # Without its declaration it is no journal any more, whatever is left of it after a crash.
        (self.directory / _DECLARATION).unlink()
        # The rest may hold what a killed writer left under a temporary name.
        shutil.rmtree(self.directory)
