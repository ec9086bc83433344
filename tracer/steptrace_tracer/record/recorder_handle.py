"""The trainer's side of the recorder process."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
import weakref
from typing import IO, TYPE_CHECKING, Final

from steptrace_schema.errors import TraceError
from steptrace_schema.journal.folder import RECORDER_LOG
from steptrace_schema.journal.where import journal_path

if TYPE_CHECKING:
    from steptrace_schema.storage.location import Location


ENVIRONMENT: Final = {
    # glibc keeps what is freed: new memory for each chunk takes a quarter of the time.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**26),
    # What starts quicker: no threads for matrices, and no search for plugins.
    "OPENBLAS_NUM_THREADS": "1",
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
}
"""Variables that the recorder process gets in addition to the trainer's environment."""


class Recorder:
    """A recorder process, which may be started before there is a journal.

    Parameters
    ----------
    store
        Where the trace goes; the journal is the one that belongs to it.
    """

    def __init__(self, store: Location) -> None:
        self._store = store
        self._journal = journal_path(store)
        self._said_early = tempfile.TemporaryFile()  # until there is a journal to say it in
        weakref.finalize(self, self._said_early.close)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",  # a module in the working directory may have the name of one we need
                "-m",
                "steptrace_tracer.record.recorder_process",
                str(self._journal.absolute()),
                str(store.absolute()),
                str(os.getpid()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said_early,
            start_new_session=True,
            env=os.environ | ENVIRONMENT | {"PYTHONPATH": _search_path()},
        )

    def check(self) -> None:
        """Raise if the recorder has failed.

        Raises
        ------
        TraceError
            With what the recorder said, and what to do.
        """
        # A recorder that has done its work has deleted the journal. Its exit code may be lost,
        # where something else in the training program waits for children.
        if self._process.poll() is not None and self._journal.exists():
            raise self._failed()

    def release(self) -> None:
        """Tell the recorder that nothing more will come."""
        pipe: IO[bytes] | None = self._process.stdin
        if pipe is not None and not pipe.closed:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def wait(self, timeout: float) -> bool:
        """Wait for the recorder to end; return whether it has.

        Raises
        ------
        TraceError
            If it has failed.
        """
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        self.check()
        return True

    def _failed(self) -> TraceError:
        self._said_early.seek(0)
        text = self._said_early.read().decode(errors="replace")
        with contextlib.suppress(OSError):
            text += (self._journal / RECORDER_LOG).read_text(errors="replace")
        said = text.strip().splitlines()
        code = self._process.returncode
        ended = os.strerror(code) if code == errno.ENOSPC else f"it ended early, with code {code}"
        why = said[-1] if said else ended
        return TraceError(
            f"{self._store}: the recorder process failed ({why}); every step that was recorded is "
            "safe in the journal beside it, and "
            f"'steptrace recover {self._store}' finishes the trace"
        )


def _search_path() -> str:
    return os.pathsep.join(filter(None, sys.path))
