"""The beginning of a recording: what may be at its path, and whether that is resumed."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from typing import TYPE_CHECKING, Final

from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.where import journal_path
from steptrace_schema.store.opening import refuse_existing
from steptrace_tracer.session.perturbing import PERTURBER
from steptrace_tracer.session.replaying import REPLAYER
from steptrace_tracer.session.session import Session

if TYPE_CHECKING:
    from steptrace_tracer.session.settings import Settings

_SESSIONS: Final = weakref.WeakKeyDictionary[Session, threading.Thread]()
"""Recordings of this process, none of which is kept by this, and the thread that trains."""


def begin_session(settings: Settings, *, resume: bool, overwrite: bool) -> Session:
    """Return a new recording.

    Parameters
    ----------
    settings
        How it is made.
    resume
        Whether to resume the trace at its path, if there is one.
    overwrite
        Whether to replace one.

    Raises
    ------
    TraceError
        If something is there that may not be replaced, or is still being written.
    """
    if (replayer := REPLAYER.present()) is not None:
        return Session(replayer.settings(settings))
    if (perturber := PERTURBER.present()) is not None:
        settings, resume = perturber.settings(settings, resume=resume)
        overwrite = perturber.overwrite
    if resume or overwrite:
        _end_left(settings)
    journal = JournalReader(journal_path(settings.path))
    if resume and not (settings.path.exists() or journal.exists):
        resume = False  # the first of several runs
    # A mistake to correct before hours of training, whatever on_error says.
    if resume:
        journal.refuse_writer(own=False)
    else:
        refuse_existing(settings.path, overwrite=overwrite)
    session = Session(dataclasses.replace(settings, resume=resume))
    _SESSIONS[session] = threading.current_thread()
    return session


def _end_left(settings: Settings) -> None:
    """End what this thread, or one that has ended, still records at the same path.

    Its training was left before its end, as in a notebook when a cell is interrupted: nothing tells
    the tracer so.
    """
    here = threading.current_thread()
    for session, thread in tuple(_SESSIONS.items()):
        left = session.active and (thread is here or not thread.is_alive())
        if left and session.traced is not None and session.settings.path == settings.path:
            session.abandon()
