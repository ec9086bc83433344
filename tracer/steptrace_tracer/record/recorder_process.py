"""The recorder: a process without TensorFlow that moves the journal into the store.

``python -m steptrace_tracer.record.recorder_process JOURNAL STORE TRAINER``. Its standard input is
a pipe from the trainer, whose end means that the trainer is gone, however it went; so does the loss
of its parent, the process with the id TRAINER.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from steptrace_schema.errors import DiskLimitError, TraceError
from steptrace_schema.journal.folder import RECORDER_LOG
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.moving.journal_mover import NOT_CLOSED
from steptrace_schema.storage.location import Location, locate
from steptrace_schema.storage.locks import exclusive, writer_of
from steptrace_tracer.record.retrying_mover import RetryingMover

_WAITING_SECONDS = 0.05
_POLL_SECONDS = 0.2
_RECORDS_PER_SECOND = 4096  # that looking at a journal is given; each takes 2 us
_NICENESS = 10
_LEAST_PRIORITY = 19


def has_begun(journal: Path, trainer: int, parent: int) -> bool:
    """Wait until the trainer has made its journal; return False if it ends without.

    Parameters
    ----------
    journal
        The folder, which may be that of another training, which is not waited for.
    trainer, parent
        As :func:`record` takes them.
    """
    is_over = False
    while not (JournalReader(journal).exists and writer_of(journal) == parent):
        if is_over:
            return False
        ended = select.select([trainer], [], [], _WAITING_SECONDS)[0]
        is_over = bool(ended) or os.getppid() != parent
    return True


def record(journal: Path, store: Location, trainer: int, parent: int) -> None:
    """Move the journal into the store until the run is over, then finish the store.

    Parameters
    ----------
    journal, store
        The folders.
    trainer
        A file descriptor that becomes readable when the trainer is done or dead.
    parent
        The trainer's process, this one's parent while it lives.
    """
    reader = JournalReader(journal)
    with exclusive(journal), ThreadPoolExecutor(1, initializer=_yield_to_training) as meanwhile:
        mover = RetryingMover(journal, store)
        found, is_full = reader.pending(), False

        def is_over(seconds: float = 0.0) -> bool:
            # Processes that the trainer forks hold the pipe open, so its end is not the only sign.
            ended = select.select([trainer], [], [], seconds)[0]
            return bool(ended or os.getppid() != parent or reader.closing())

        while not is_over(poll_seconds(found.records)):
            found = reader.pending()
            if not is_full:
                try:
                    # What is left when the run is over is moved by `finish`, on all cores.
                    meanwhile.submit(mover.move_ready, is_over).result()
                except DiskLimitError as error:
                    is_full = True
                    reader.stop(str(error))
        closing = reader.closing()
        if closing is None:
            mover.finish("incomplete", NOT_CLOSED)
        else:
            mover.finish(closing.status, closing.reason)


def _yield_to_training() -> None:
    """Have this thread run with what the training leaves of the processor, and a little more.

    Not the process: without privileges there is no way back, for what is left at the end.
    """
    if sys.platform == "linux":  # elsewhere it is the process that has a priority
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LEAST_PRIORITY)


def poll_seconds(records: int) -> float:
    """Return how long not to look at a journal, so that looking takes less than 1 % of a core.

    Examples
    --------
    >>> poll_seconds(100), poll_seconds(8192)
    (0.2, 2.0)
    """
    return max(_POLL_SECONDS, records / _RECORDS_PER_SECOND)


def main() -> int:
    """Run the recorder; the exit code is 0 when the store is finished."""
    # Ctrl-C is for the trainer, which closes the trace; the recorder ends after it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICENESS)
    journal, store, parent = Path(sys.argv[1]), locate(sys.argv[2]), int(sys.argv[3])
    trainer = sys.stdin.fileno()
    if not has_begun(journal, trainer, parent):
        return 0
    try:
        with (journal / RECORDER_LOG).open("wb") as log:
            os.dup2(log.fileno(), sys.stderr.fileno())
        record(journal, store, trainer, parent)
    except (TraceError, OSError) as error:
        # Said by the exit code too, because a full disk may have no room for the sentence.
        code = error.errno if isinstance(error, OSError) else None
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
        return code if code == errno.ENOSPC else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
