"""Moving what a training that ended without closing its trace has left."""

from __future__ import annotations

import datetime
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steptrace_schema.encoding.expansion import Expansion
from steptrace_schema.errors import DiskLimitError, NotATraceError
from steptrace_schema.format.disk_limit import DiskLimit
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.where import journal_path
from steptrace_schema.moving.journal_mover import NO_JOURNAL, NOT_CLOSED, JournalMover, all_cores
from steptrace_schema.storage.location import Location, is_packed
from steptrace_schema.storage.locks import exclusive
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.store.writer import TraceWriter

if TYPE_CHECKING:
    from steptrace_schema.format.attributes import TraceAttributes

_ONCE: Final = 2**30
"""Bytes of one array's rows of a shard, which few of the records may have."""


def recover(store: Location) -> int:
    """Finish the trace at `store` from the journal beside it; return the records moved.

    A trace without a journal has nothing to move, and is left as it is, but for one that still says
    that it is being recorded: a run was killed as it was about to resume it.

    Raises
    ------
    NotATraceError
        If there is neither a store nor a journal.
    TraceError
        If its run is still going on.
    """
    journal = journal_path(store)
    reader = JournalReader(journal)
    reader.refuse_writer(own=True)
    if not reader.exists:
        if reader.is_leftover:
            shutil.rmtree(journal)
        if not store.exists():
            msg = f"there is neither a trace at {store} nor a journal at {journal}"
            raise NotATraceError(msg)
        _close_without_journal(store)
        return 0
    with exclusive(journal):
        mover = JournalMover(journal, store, all_cores(), Expansion(_ONCE))
        pending = mover.records_pending
        closing = reader.closing()
        if closing:
            mover.finish(closing.status, closing.reason)
        else:
            mover.finish("incomplete", NOT_CLOSED)
    return pending


def is_left_recording(store: Location, attributes: TraceAttributes) -> bool:
    """Whether a trace without a journal says that it is being recorded, and is not.

    The journal of one in an object store may be on another machine.
    """
    local = isinstance(store, Path) and not is_packed(store)
    return local and attributes.status == "recording"


def _close_without_journal(store: Location) -> None:
    attributes = read_attributes(store)
    if not is_left_recording(store, attributes):
        return
    limit = DiskLimit.of(attributes.policy)
    writer = TraceWriter(store, attributes, limit.store if limit else None)
    writer.trim()
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    update = {"status": "incomplete", "status_reason": NO_JOURNAL, "finished": now}
    writer.commit(attributes.model_copy(update=update))
    with suppress(DiskLimitError):  # a copy that readers can do without
        writer.consolidate()
