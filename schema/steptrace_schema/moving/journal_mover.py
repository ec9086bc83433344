"""Moving a journal into its store: what the recorder process does, and ``steptrace recover``."""

from __future__ import annotations

import datetime
import os
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

from steptrace_schema.errors import DiskLimitError
from steptrace_schema.format.attributes import Event, Missing
from steptrace_schema.format.disk_limit import DiskLimit
from steptrace_schema.format.retention import is_thinned
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.record import Record
from steptrace_schema.moving.array_move import Rows
from steptrace_schema.moving.choosing import chooser_for, held_back, is_of_a_step
from steptrace_schema.moving.disk_budget import Budget
from steptrace_schema.moving.final_move import move_final
from steptrace_schema.moving.incident_move import move_incidents
from steptrace_schema.moving.row_writer import RowWriter, merge_missing
from steptrace_schema.store.writer import TraceWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from steptrace_schema.encoding.expansion import Expansion
    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_schema.format.layout import ArraySpec
    from steptrace_schema.journal.place import Place
    from steptrace_schema.names import Kind, Status
    from steptrace_schema.storage.location import Location

NOT_CLOSED = "the training process ended without closing the trace"
"""The reason stored in a trace whose run was killed."""
NO_JOURNAL = f"{NOT_CLOSED}, and there is no journal beside it"
"""The reason stored in one whose run was killed where it had nothing to move."""

_THINNED = "from here on only some steps keep their tensors, as the policy's 'retain' says"
_FORGOTTEN = (
    "what the recorder had noted of earlier triggers could not be read, so steps around a trigger "
    "before this one may lack their tensors"
)
_TORN = (
    "{} of the last records in the journal were not written to their end, as by a loss of power, "
    "and are left out"
)
_NONE_KEPT = "no step was retained; its statistics are recorded"


class JournalMover:
    """Moves the records of a journal into the store, some whole shards at a time.

    Every move ends in one atomic commit, and only then are the records deleted. Moving the same
    records again writes the same bytes, so an interruption anywhere needs no repair.

    Parameters
    ----------
    journal
        Folder of the journal.
    store
        Where the store is; made if it is not there.
    workers
        Threads that move arrays. It may be changed between moves.
    expansion
        Bounds what is made of records that a stranger may have written; None for the training's
        own.
    checks
        Whether to compare records with their checksums, as `JournalReader` takes it.
    """

    def __init__(
        self,
        journal: Path,
        store: Location,
        workers: int = 1,
        expansion: Expansion | None = None,
        *,
        checks: bool = True,
    ) -> None:
        self.workers = workers
        self._reader = JournalReader(journal, checks=checks)
        self._declaration = self._reader.declaration()
        attributes = self._declaration.attributes
        limit = DiskLimit.of(attributes.policy)
        self._writer = TraceWriter(store, attributes, limit.store if limit else None)
        self._shard_steps = self._writer.attributes.shard_steps
        self._retain = attributes.policy.retain
        self._chooser = chooser_for(self._retain)
        self._budget: Budget | None = None
        if limit is not None and (room := self._writer.room) is not None:
            self._budget = Budget(limit, self._retain, self._writer, room, self._reader)
        thins = self._chooser is not None or limit is not None
        self._rows = RowWriter(self._writer, self._reader, thins=thins, expansion=expansion)
        # The store may then lack the weights from which the next update is computed.
        self._keeps_last = thins or attributes.policy.only_describes("weights")
        self._kept: set[int] = set()
        self._opened: dict[int, Record] = {}
        self._left: list[Place] = []
        left = self._reader.places()
        self._forgotten = not self._resume_choosing(left)
        self._delete(left, self.records_moved)

    def _resume_choosing(self, left: list[Place]) -> bool:
        """Go on choosing where an earlier mover was; False where what it has noted is damaged.

        A loss of power may leave the file empty. The records are whole, so the trace goes on.
        """
        if self._chooser is None:
            return True
        try:
            if (noted := self._reader.noted()) is not None:
                self._chooser.resume(noted, self._records(left))
        except ValueError:
            return False
        return True

    @property
    def records_moved(self) -> int:
        """How many records have been moved since the run began."""
        return self._writer.attributes.records

    @property
    def records_pending(self) -> int:
        """How many records wait in the journal."""
        return len(self._reader.places(self.records_moved))

    def move_ready(self, stop: Callable[[], bool] = lambda: False) -> int:
        """Move all whole shards of records; return how many records were moved.

        Records of steps that may still have to be kept in full stay, while the policy's limit has
        room for them.

        Parameters
        ----------
        stop
            Asked after each shard whether to leave the others for now.

        Raises
        ------
        DiskLimitError
            If not even what is kept of every step has room within the policy's limit.
        """
        moved = 0
        move_incidents(self._reader.directory, self._writer, self._attributes)
        while places := self._reader.places(self.records_moved):
            due = places[: len(places) - self._held_back(places)]
            if len(due) < self._shard_steps:
                if self._budget is None or not self._budget.is_pressed:
                    break
                due = places[: self._due()]  # no more than has to be moved
            if self._chooser is not None:
                self._choose(self._records(places), ended=False, crashed=False)
            while due:
                count = self._move(due[: self._due()])
                moved += count
                due = due[count:] if len(due) - count >= self._shard_steps else []
                if stop():
                    return moved
        return moved

    def _held_back(self, places: list[Place]) -> int:
        """Return how many of the newest records wait until it is clear which are kept."""
        if self._retain == "all" or len(places) < self._shard_steps:
            return 0
        return held_back(self._records(places), self._retain.waiting)

    def _records(self, places: list[Place]) -> list[Record]:
        return [
            self._opened.get(place.index) or self._opened.setdefault(place.index, Record(place))
            for place in places
        ]

    def _choose(self, records: list[Record], *, ended: bool, crashed: bool) -> None:
        if self._chooser is not None:
            self._kept = self._chooser.kept(records, ended=ended, crashed=crashed)
            if (noted := self._chooser.noted()) is not None:
                self._reader.note(noted, self._writer.attributes.policy.durability)

    def move_all(self) -> Iterator[int]:
        """Move every record that is left, yielding how many each time."""
        while places := self._reader.places(self.records_moved):
            while places:
                moved = self._move(places[: self._due()])
                places = places[moved:]
                yield moved

    def _due(self) -> int:
        """Return how many records complete a shard, where each one is a row."""
        rows = self._writer.attributes.steps_recorded.get("scalars", 0)
        return self._shard_steps - rows % self._shard_steps

    def finish(self, status: Status, reason: str | None) -> None:
        """Move what is left, set the trace's status, and delete the journal."""
        self._declaration = self._reader.declaration()
        if self._chooser is not None:
            records = self._records(self._reader.places(self.records_moved))
            self._choose(records, ended=True, crashed=status != "complete")
            if self._budget is not None:
                self._budget.prefer_newest(records)
            del records  # each holds a file open, and may hold its content
        try:
            for _ in self.move_all():
                pass
        except DiskLimitError as error:
            reason = str(error) if status == "complete" else reason
            status = "incomplete"
        move_incidents(self._reader.directory, self._writer, self._attributes)
        move_final(self._reader.directory, self._writer, self._attributes)
        self._writer.trim()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        attributes = self._attributes()
        update = {
            "status": status,
            "status_reason": reason,
            "finished": now,
            "events": (*attributes.events, *self._torn(now)),
            "missing": (*attributes.missing, *self._never_kept(attributes, reason)),
        }
        self._writer.commit(attributes.model_copy(update=update))
        with suppress(DiskLimitError):  # a copy that readers can do without
            self._writer.consolidate()
        self._reader.clear()

    def _torn(self, now: str) -> Iterator[Event]:
        """Yield an event that says how many steps a loss of power has taken."""
        if self._reader.torn:
            yield Event(time=now, message=_TORN.format(len(self._reader.torn)))

    def _attributes(self) -> TraceAttributes:
        """Return the latest attributes from the trainer with what the store has committed."""
        closing = self._reader.closing()
        latest = closing.attributes if closing else self._declaration.attributes
        committed = self._writer.attributes
        # The trainer knows best what no step has; which steps lack what others have is found here.
        found = [m for m in committed.missing if m.steps is not None]
        missing = tuple({(m.kind, m.path, m.reason): m for m in (*latest.missing, *found)}.values())
        return latest.model_copy(
            update={
                "missing": missing,
                "shard_steps": committed.shard_steps,
                "steps_recorded": committed.steps_recorded,
                "statistics_recorded": committed.statistics_recorded,
                "events": (
                    *latest.events,
                    *(e for e in committed.events if e not in latest.events),
                ),
                "records": committed.records,
                "incidents": committed.incidents,
                "final": committed.final,
            }
        )

    def _move(self, places: list[Place]) -> int:
        """Move records, with as many of their tensors as there is room for.

        Raises
        ------
        DiskLimitError
            If there is not even room for them without their tensors.
        """
        self._declaration = self._reader.declaration()  # made before the records that need it
        records = self._records(places)
        wanted = self._wanted(records)
        if self._budget is None:
            self._write(records, self._kinds(records, wanted), ())
        else:
            self._write_within(self._budget, records, wanted)
        self._delete([*self._left, *places], records[-1].index + 1)
        return len(places)

    def _delete(self, places: list[Place], moved: int) -> None:
        """Delete those of `places` that are in the store, also where an earlier mover did not.

        The last one stays until the next move where the store may lack its weights, from which the
        next update is computed; a record that is counted as moved is not read as data.
        """
        done = [place for place in places if place.index < moved]
        self._left = done[len(done) - self._keeps_last :]
        deleted = done[: len(done) - len(self._left)]
        for place in deleted:
            self._opened.pop(place.index, None)
        self._reader.release(deleted)

    def _write_within(self, budget: Budget, records: list[Record], wanted: set[int]) -> None:
        """Write records with fewer and fewer tensors, until they have room."""
        budget.adapt()
        while True:
            kept = budget.kept(records, wanted)
            kinds = self._kinds(records, kept)
            notes = budget.notes(records, wanted - kept)
            try:
                budget.require(kinds, derived=self._derives_updates, workers=self.workers)
                self._write(records, kinds, notes)
            except DiskLimitError as error:
                if not budget.tighten():
                    raise budget.used_up(records[0].step) from error
            else:
                return

    def _wanted(self, records: list[Record]) -> set[int]:
        """Return the records whose tensors are kept; those after the last step always are."""
        return {record.index for record in records if self._is_wanted(record)}

    def _is_wanted(self, record: Record) -> bool:
        return self._chooser is None or record.step in self._kept or not is_of_a_step(record)

    @property
    def _derives_updates(self) -> bool:
        return not any(spec.kind == "updates" for spec in self._declaration.arrays)

    def _kinds(self, records: list[Record], kept: set[int]) -> dict[Kind, Rows]:
        """Return the rows that records are in each kind, where `kept` ones keep their tensors."""
        rows = self._writer.attributes.steps_recorded
        described = self._writer.attributes.statistics_recorded
        kinds = {}
        for kind, specs in _by_kind(self._declaration.arrays).items():
            keys = [spec.key for spec in specs]
            if present := [record for record in records if not record.keys.isdisjoint(keys)]:
                kinds[kind] = Rows(
                    tuple(specs),
                    rows.get(kind, 0),
                    described.get(kind, rows.get(kind, 0)),
                    tuple(present),
                    tuple(record.index in kept or not is_thinned(kind) for record in present),
                )
        return kinds

    def _write(
        self, records: list[Record], kinds: dict[Kind, Rows], notes: Iterable[tuple[int, str]]
    ) -> None:
        """Write rows, and commit them."""
        written = self._rows.write(kinds, derived=self._derives_updates, workers=self.workers)
        attributes = self._attributes()
        self._writer.commit(
            attributes.model_copy(
                update={
                    "steps_recorded": written.steps_recorded,
                    "statistics_recorded": written.statistics_recorded,
                    "events": self._noting(attributes, kinds.values(), notes),
                    "records": records[-1].index + 1,
                    "missing": merge_missing(attributes.missing, written.missing),
                }
            )
        )

    def _noting(
        self, attributes: TraceAttributes, moved: Iterable[Rows], notes: Iterable[tuple[int, str]]
    ) -> tuple[Event, ...]:
        """Return the events, with those that say from where on steps have lost their tensors."""
        lost = {
            record.step
            for new in moved
            for record, kept in zip(new.records, new.kept, strict=True)
            if not kept and not self._is_wanted(record)
        }
        found = [*((step, _THINNED) for step in sorted(lost)[:1]), *notes]
        if self._forgotten:
            first = min((record.step for new in moved for record in new.records), default=0)
            found.append((first, _FORGOTTEN))
        known = {event.message for event in attributes.events}
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        events = [
            Event(time=now, message=message, step=step)
            for step, message in found
            if message not in known
        ]
        return (*attributes.events, *events)

    def _never_kept(self, attributes: TraceAttributes, ended: str | None) -> Iterator[Missing]:
        """Yield what has no tensor, because no step was kept, or had room."""
        empty = {
            kind
            for kind in attributes.statistics_recorded
            if not attributes.steps_recorded.get(kind, 0)
        }
        known = {(m.kind, m.path) for m in attributes.missing if m.steps is None}
        for spec in self._declaration.arrays:
            if (spec.kind, spec.path) in known:
                continue
            reason = _NONE_KEPT if spec.kind in empty and not spec.static else None
            if self._budget is not None:
                reason = self._budget.why_absent(spec, ended, attributes.events) or reason
            if reason is not None:
                yield Missing(kind=spec.kind, path=spec.path, reason=reason)


def _by_kind(arrays: tuple[ArraySpec, ...]) -> dict[Kind, list[ArraySpec]]:
    groups: dict[Kind, list[ArraySpec]] = defaultdict(list)
    for spec in arrays:
        groups[spec.kind].append(spec)
    return groups


def all_cores() -> int:
    """Return how many threads move a journal while no training needs the processor.

    That is one for each core that this process may use, where the system says which these are.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
