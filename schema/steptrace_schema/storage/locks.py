"""Who works on a journal: its writer, the training, and its mover, the recorder.

Both hold a lock (flock) on a file of the journal. The kernel releases it when the process ends,
however it ends, so the lock of a dead process stops no other process.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from steptrace_schema.errors import TraceError
from steptrace_schema.storage.names import open_to_read, open_to_write
from steptrace_schema.storage.posix import is_running, try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOVER: Final = "lock"
"""The file locked by the process that moves records into the store."""
WRITER: Final = "writer"
"""The file locked by the training that writes records; it holds the number of its process."""

_LONGEST_NUMBER: Final = 20
_ATTEMPTS: Final = 10
_SECONDS_BETWEEN: Final = 0.01


@contextmanager
def exclusive(journal: Path) -> Iterator[None]:
    """Hold the journal's lock as the one process that moves its records.

    Raises
    ------
    TraceError
        If another process holds it.
    """
    with os.fdopen(open_to_write(journal / MOVER), "wb") as lock:
        if not _take(lock.fileno()):
            msg = (
                f"{journal} is being moved into its store by another process; "
                "wait until that run has ended"
            )
            raise TraceError(msg)
        yield


def is_being_moved(journal: Path) -> bool:
    """Whether a live process holds the journal's lock, as a recorder does for its whole run."""
    return _is_locked(journal / MOVER)


def hold_as_writer(journal: Path) -> int:
    """Lock the journal as its writer, until the returned descriptor is closed or the process ends.

    Raises
    ------
    TraceError
        If another process is writing this journal.
    """
    lock = open_to_write(journal / WRITER, emptied=False)
    if not _take(lock):
        os.close(lock)
        msg = f"{journal} is being written by another training; choose another path for this one"
        raise TraceError(msg)
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock


def writer_of(journal: Path) -> int | None:
    """Return the number of the process that has written the journal, None if nothing says it."""
    try:
        with os.fdopen(open_to_read(journal / WRITER), "rb") as file:
            text = file.read(_LONGEST_NUMBER).decode("utf-8", errors="replace")
    except (FileNotFoundError, ValueError):
        return None
    # A number that no process has says nothing; 0 and negative ones mean groups of processes.
    process = int(text) if re.fullmatch(r"[1-9]\d{0,9}", text, re.ASCII) else None
    return process if process is not None and process < 2**31 else None


def live_writer(journal: Path) -> int | None:
    """Return the number of the process that is writing the journal, None where there is none."""
    if not _is_locked(journal / WRITER):
        return None
    # A process that the training forked may outlive it with the lock.
    writer = writer_of(journal)
    return writer if writer is not None and is_running(writer) else None


def _take(lock: int) -> bool:
    """Take a lock, which one who looks whether it is taken may hold for an instant."""
    for _ in range(_ATTEMPTS):
        if try_lock(lock):
            return True
        time.sleep(_SECONDS_BETWEEN)
    return False


def _is_locked(path: Path) -> bool:
    try:
        descriptor = open_to_read(path)
    except (FileNotFoundError, ValueError):  # a pipe or a device is no lock of a journal
        return False
    try:
        return not try_lock(descriptor, shared=True)  # others may look at the same time
    finally:
        os.close(descriptor)
