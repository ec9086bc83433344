"""The message about a failure of the tracer."""

from __future__ import annotations

import errno
import os
import warnings
from typing import TYPE_CHECKING, Final

from steptrace_schema.errors import TraceError
from steptrace_schema.human import without_colours
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.where import journal_path

if TYPE_CHECKING:
    from steptrace_schema.storage.location import Location
    from steptrace_tracer.session.settings import Settings


_WHERE = (
    *("Graph execution error", "Detected at node", "<stack", "Stack trace", "Node:", "  "),
    "Exception encountered when calling",
)


def one_line(error: BaseException) -> str:
    """Return the type of an error, and the first of its lines that says what happened.

    That of a compiled function begins with where in the program the operation comes from, and that
    of a layer with which one it is.
    """
    lines = [line for line in without_colours(str(error)).splitlines() if line.strip()]
    said = next((line for line in lines if not line.startswith(_WHERE)), "".join(lines[:1]))
    return f"{type(error).__name__}: {said}"


MOST_CHARACTERS: Final = 16_384
"""Of the message of an exception: TensorFlow's may hold every value of a tensor."""


def whole_message(error: BaseException) -> str:
    """Return the type and the whole message of an error, up to `MOST_CHARACTERS`."""
    text = f"{type(error).__name__}: {without_colours(str(error))}"
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."


def reason_text(path: Location, error: Exception) -> str:
    """Return an error as a part of a sentence that names the trace at `path` already."""
    if not isinstance(error, TraceError):
        return one_line(error)
    if isinstance(error.__cause__, TraceError):  # such as the recorder's, met while writing
        error = error.__cause__
    return str(error).splitlines()[0].removeprefix(f"{path}: ")


def why_ended(error: BaseException) -> str:
    """Return why a training ends whose step raised `error`."""
    if isinstance(error, Exception):
        return f"the training step raised {one_line(error)}"
    return f"the training was interrupted ({type(error).__name__})"


def complain(settings: Settings, error: Exception) -> None:
    """Say that the tracing has stopped, why, and what to do; once, when it is finished."""
    path = settings.path
    if settings.on_error == "raise":
        raise TraceError(stopped_message(path, error)) from error
    text = stopped_message(path, error, "the training continues without the tracer, and ")
    warnings.warn(text, RuntimeWarning, stacklevel=4)


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
