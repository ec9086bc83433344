"""One run's way from taps to journal, and the recorder that follows it."""

from __future__ import annotations

import datetime
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

from steptrace_schema.encoding.chunk_shapes import shard_steps_for
from steptrace_schema.errors import DiskLimitError, TraceError
from steptrace_schema.format.attributes import Event, TraceAttributes
from steptrace_schema.format.disk_limit import DiskLimit
from steptrace_schema.human import human_bytes
from steptrace_schema.journal.declaration import Declaration
from steptrace_schema.journal.ring import RingSize
from steptrace_schema.journal.where import journal_path
from steptrace_schema.journal.writer import JournalWriter
from steptrace_schema.storage.contents import file_sizes
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate.coverage import coverage
from steptrace_tracer.record.declare import declared_paths, only_described, specify
from steptrace_tracer.record.incident_keeper import keep_final, keep_steps
from steptrace_tracer.record.journal_room import JournalRoom
from steptrace_tracer.record.recorder_handle import Recorder
from steptrace_tracer.record.summary import Summary
from steptrace_tracer.record.why_missing import with_absence, with_reasons

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from steptrace_schema.format.layout import ArraySpec
    from steptrace_schema.names import Status
    from steptrace_schema.storage.location import Location
    from steptrace_tracer.record.pending_step import Collected, PendingStep

_JOURNAL_POLL_SECONDS = 0.05
_CLOSE_POLL_SECONDS = 0.1
_RING_PART = 8
"""The ring takes a part of the free disk, which the store needs too, until the end of the run."""
_HEADER_BYTES = 2**15
"""More than names and shapes of a step's arrays take, mostly; longer steps have their files."""


class Recording:
    """Writes steps into a journal, in order.

    A step is written by the thread that trains, straight from its tensors, which are then let go:
    the training would have to copy weights that something else still holds. When the process is
    killed, all steps but the one in flight are in the journal.

    Parameters
    ----------
    store
        Where the trace goes.
    attributes
        Its root attributes; what is declared and missing is added as steps arrive.
    journal_limit
        Bytes that the journal may hold before the training has to wait.
    arrays
        The table of arrays of a trace that is resumed.
    """

    def __init__(
        self,
        store: Location,
        attributes: TraceAttributes,
        journal_limit: int,
        arrays: tuple[ArraySpec, ...] = (),
    ) -> None:
        self._store = store
        self._attributes = attributes
        limit = DiskLimit.of(attributes.policy)
        self._room = JournalRoom(limit) if limit else None
        self._journal_limit = min(journal_limit, limit.journal) if limit else journal_limit
        retain = attributes.policy.retain
        # What is logged is in separate records, at most one for each step.
        self._waiting = 0 if retain == "all" else 2 * retain.waiting + 1
        self._arrays = arrays
        self._recorded = {spec.key for spec in arrays if not spec.statistics_only}
        self._shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        self._journal: JournalWriter | None = None
        self._recorder = Recorder(store)  # before the first step, which is compiled meanwhile
        self.raw_bytes = 0
        """Bytes of all arrays that are in the journal, or were."""
        self._pending_at_most = 0
        self._largest = -1
        self._steps = 0
        self.record_bytes = 0
        """Bytes of a step's arrays, so that shards are made for them whatever is recorded first."""
        self._error: Exception | None = None
        self._appending = threading.Lock()  # what is logged may come from another thread

    def is_moving(self) -> bool:
        """Whether so many steps wait in the journal that the recorder moves some of them."""
        resting = self._attributes.shard_steps + self._waiting
        return self._journal is not None and self._journal.pending_records() >= resting

    def put(self, pending: PendingStep) -> None:
        """Write one step, or several together, into the journal.

        Raises
        ------
        TraceError
            If it could not be written, or the recorder has failed.
        """
        try:
            with self._appending:
                self._append(pending)
        except Exception as error:
            self._error = error
            self._raise_error()
        self._recorder.check()

    def close(
        self, status: Status, reason: str | None, waiting: Callable[[int], None]
    ) -> Summary | None:
        """Say how the run ended, and wait until the recorder has finished the store.

        Parameters
        ----------
        status, reason
            How the run ended.
        waiting
            Called over and over with the number of records still in the journal.

        Returns
        -------
        Summary or None
            None if no step was recorded.

        Raises
        ------
        TraceError
            If a step could not be written, or the recorder failed.
        """
        if self._journal is None:
            self._recorder.release()
            while not self._recorder.wait(_CLOSE_POLL_SECONDS):
                pass
            self._raise_error()
            return None
        if self._error is not None:
            status, reason = "incomplete", _reason(self._error)
        try:
            self._journal.close(status, reason, self._attributes)
        except OSError as error:
            # Such as a full disk. The recorder can make room, and calls the trace incomplete.
            self._error = self._error or error
        self._recorder.release()
        while not self._recorder.wait(_CLOSE_POLL_SECONDS):
            waiting(self._journal.pending_records())
        if self._room is not None and status == "complete":
            found = read_attributes(self._store)
            if found.status != status:
                msg = f"{self._store}: {found.status_reason}"
                raise DiskLimitError(msg)
        self._raise_error()
        stored = sum(file_sizes(self._store).values())
        return Summary(
            self._store,
            status,
            self._steps,
            self.raw_bytes,
            stored,
            self._attributes.missing,
            coverage(
                self._attributes, {spec.key for spec in self._arrays if not spec.statistics_only}
            ),
        )

    def _raise_error(self) -> None:
        if isinstance(self._error, DiskLimitError):
            raise self._error
        if self._error is not None:
            msg = f"{self._store}: a step could not be recorded ({self._error})"
            raise TraceError(msg) from self._error

    def _append(self, pending: PendingStep) -> None:
        collected = pending.collect()
        arrays, one = collected.arrays, collected.one_step
        if not arrays:  # a step that failed before it had any
            self._journal = self._journal or self._begin(Declaration(self._attributes, ()))
            self._keep_whole(self._journal, collected)
            return
        size = 0 if self._room is None else JournalWriter.size(pending.step, arrays)
        if self._journal is not None:
            self._hold_back(self._journal, pending.step, size)
        if collected.attributes:
            self._attributes = self._attributes.model_copy(update={**collected.attributes})
        declaration = self._declaration(pending.step, collected)
        is_new = (
            bool(collected.attributes)
            or declaration.arrays is not self._arrays
            or declaration.attributes != self._attributes
        )
        if self._room is not None and (is_new or size > self._largest):
            self._require_room(self._room, declaration, pending.step, size)
        if self._journal is None:
            self._journal = self._begin(declaration)
            self._make_ring(self._journal, declaration, JournalWriter.size(pending.step, one))
        elif is_new:
            self._journal.declare(declaration)
        self._arrays, self._attributes = declaration.arrays, declaration.attributes
        before = self._journal.appended_bytes
        append = self._journal.append if not collected.together else self._journal.append_rows
        self.raw_bytes += append(pending.step, arrays)
        self._pending_at_most += self._journal.appended_bytes - before
        if self._room is not None:
            self._room.take(size)
        self._steps += (collected.together or 1) * any(k.startswith("scalars/") for k in arrays)
        self._keep_whole(self._journal, collected)

    def _keep_whole(self, journal: JournalWriter, collected: Collected) -> None:
        for step, note in keep_steps(journal, self._room, collected.whole).items():
            self._attributes = self._with_events(step, (note,))
        keep_final(journal, self._room, collected.final)

    def _begin(self, declaration: Declaration) -> JournalWriter:
        """Make the journal, which the recorder waits for."""
        return JournalWriter.create(journal_path(self._store), declaration)

    def _make_ring(self, journal: JournalWriter, declaration: Declaration, size: int) -> None:
        """Make a ring for records like the first one, but where every byte is counted."""
        if self._room is not None:
            return
        room = min(self._journal_limit, shutil.disk_usage(journal.directory).free // _RING_PART)
        ring = RingSize.within(max(size, self.record_bytes + _HEADER_BYTES), room)
        if ring is not None and ring.slots >= declaration.attributes.shard_steps:
            journal.make_ring(ring)

    def _require_room(
        self, room: JournalRoom, declaration: Declaration, step: int, size: int
    ) -> None:
        """Raise if the record has no room within the policy's limit, and wait until it has."""
        try:
            room.require(declaration, step, size)
        except DiskLimitError:
            empty = Declaration(self._attributes, ())
            if self._journal is None and room.has_room_without_steps(empty):
                self._journal = self._begin(empty)
            raise
        self._largest = max(self._largest, size)
        if self._journal is not None:
            self._wait_while(lambda journal: room.is_full(journal, size), self._journal)

    def _declaration(self, step: int, collected: Collected) -> Declaration:
        arrays, missing = collected.one_step, collected.missing
        attributes = self._with_events(step, collected.notes)
        shapes = {key: (values.shape, values.dtype) for key, values in arrays.items()}
        # Most steps are like the one before; to compare them with the table takes far longer.
        specs = self._arrays
        if shapes != self._shapes:
            described = collected.described
            specs = specify(arrays, attributes.policy, self._arrays, described=described)
            self._shapes = shapes
        never = attributes.missing if specs is not self._arrays else ()
        if specs is not self._arrays:
            self._recorded = {spec.key for spec in specs if not spec.statistics_only}
        recorded = self._recorded
        specs = with_absence(specs, recorded, (*never, *missing))
        told = with_reasons(attributes.missing, missing, recorded)
        if specs is self._arrays and told is attributes.missing:
            return Declaration(attributes, specs)
        known = {(entry.kind, entry.path): entry for entry in (*told, *only_described(specs))}
        update: dict[str, Any] = {
            "missing": tuple(m for m in known.values() if f"{m.kind}/{m.path}" not in recorded)
        }
        if not self._arrays:
            step_bytes = max(self.record_bytes, sum(a.nbytes for a in arrays.values()))
            update["shard_steps"] = self._shard_steps(step_bytes)
        attributes = attributes.model_copy(update=update)
        declared = declared_paths([spec.key for spec in specs], attributes.missing)
        return Declaration(attributes.model_copy(update={"declared": declared}), specs)

    def _with_events(self, step: int, messages: tuple[str, ...]) -> TraceAttributes:
        """Return the attributes with an event for each message that they do not have yet."""
        if not messages:
            return self._attributes
        known = {event.message for event in self._attributes.events}
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        new = [Event(time=now, message=m, step=step) for m in messages if m not in known]
        if not new:
            return self._attributes
        events = (*self._attributes.events, *new)
        return self._attributes.model_copy(update={"events": events})

    def _shard_steps(self, step_bytes: int) -> int:
        """Return how many steps to move at once, so that the journal has room for two moves."""
        parts = 2 if self._room is None else 8  # each move then says what the next has room for
        room = max(1, self._journal_limit // max(1, parts * step_bytes))
        return min(shard_steps_for(step_bytes), 1 << (room.bit_length() - 1))

    def _hold_back(self, journal: JournalWriter, step: int, size: int) -> None:
        """Wait until the journal has room, and note in the trace that the training had to wait."""
        if not self._is_full(journal, size):
            return
        if not any(event.message.startswith(_HELD) for event in self._attributes.events):
            message = f"{_HELD} {human_bytes(self._journal_limit)}"
            self._attributes = self._with_events(step, (message,))
            journal.declare(Declaration(self._attributes, self._arrays))
        try:
            self._wait_while(lambda journal: self._is_full_for_now(journal, size), journal)
        except TraceError:
            # Nobody makes room any more. This step is complete, so it is kept beyond a limit that
            # is the journal's alone; the next one is refused.
            if self._room is not None:
                raise

    def _is_full(self, journal: JournalWriter, size: int) -> bool:
        if self._room is not None:
            self._refuse_stopped(journal)
            if self._room.is_full(journal, size):
                return True
        # Without a look at the folder, which takes longer than to write a small step.
        if self._pending_at_most > self._journal_limit:
            self._pending_at_most = journal.pending_bytes()
        return self._pending_at_most > self._journal_limit

    def _is_full_for_now(self, journal: JournalWriter, size: int) -> bool:
        """Whether the journal is full, and the recorder makes room in it."""
        self._pending_at_most = journal.pending_bytes()
        if self._room is not None and self._room.is_full(journal, size):
            return True
        return self._pending_at_most > self._journal_limit and self.is_moving()

    def _wait_while(self, is_full: Callable[[JournalWriter], bool], journal: JournalWriter) -> None:
        while is_full(journal):
            if self._room is not None:
                self._refuse_stopped(journal)
                # The last record that was moved stays, so that nothing makes room beside it.
                if journal.pending_records() <= 1 and is_full(journal):
                    raise self._room.no_room_for_two()
            self._recorder.check()
            time.sleep(_JOURNAL_POLL_SECONDS)

    def _refuse_stopped(self, journal: JournalWriter) -> None:
        """Raise if the recorder has used up the policy's limit."""
        if (reason := journal.stopped()) is not None:
            raise DiskLimitError(reason)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, DiskLimitError) else f"tracing failed: {error}"


_HELD = "training waited because the journal was larger than its limit of"
