"""The message about a failure of the tracer."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from steptrace_schema.errors import TraceError
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.where import journal_path

if TYPE_CHECKING:
    from steptrace_schema.storage.location import Location


def one_line(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def reason_text(path: Location, error: Exception) -> str:
    """Return an error as a part of a sentence that names the trace at `path` already."""
    if not isinstance(error, TraceError):
        return one_line(error)
    if isinstance(error.__cause__, TraceError):  # such as the recorder's, met while writing
        error = error.__cause__
    return str(error).splitlines()[0].removeprefix(f"{path}: ")


def stopped_message(path: Location, error: Exception, consequence: str = "") -> str:
    """Return the sentence that says that tracing has stopped, why, and what to do.

    Parameters
    ----------
    path
        Where the trace is.
    error
        What stopped it.
    consequence
        What happens next, up to the words about the earlier steps.
    """
    reason = reason_text(path, error)
    advice = ["free space"] if os.strerror(errno.ENOSPC) in reason else []
    command = f"steptrace recover {path}"
    if command not in reason and JournalReader(journal_path(path)).exists:
        advice.append(f"run '{command}' to finish the trace")
    kept = ": ".join(["earlier steps are kept", *filter(None, [" and ".join(advice)])])
    return f"{path}: tracing stopped: {reason}; {consequence}{kept}"
