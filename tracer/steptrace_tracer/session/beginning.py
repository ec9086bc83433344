"""The beginning of a recording: what may be at its path, and whether that is resumed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.where import journal_path
from steptrace_schema.store.opening import refuse_existing
from steptrace_tracer.session.perturbing import PERTURBER
from steptrace_tracer.session.replaying import REPLAYER
from steptrace_tracer.session.session import Session

if TYPE_CHECKING:
    from steptrace_tracer.session.settings import Settings


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
    journal = JournalReader(journal_path(settings.path))
    if resume and not (settings.path.exists() or journal.exists):
        resume = False  # the first of several runs
    # A mistake to correct before hours of training, whatever on_error says.
    if resume:
        journal.refuse_writer(own=False)
    else:
        refuse_existing(settings.path, overwrite=overwrite)
    return Session(dataclasses.replace(settings, resume=resume))
