"""Moving a journal into its store: what the recorder process does, and ``steptrace recover``."""

from __future__ import annotations

import datetime
import itertools
import os
import shutil
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from steptrace_schema.errors import DiskLimitError, NotATraceError
from steptrace_schema.format.attributes import Event, Missing
from steptrace_schema.format.disk_limit import DiskLimit
from steptrace_schema.format.layout import ArraySpec, split_key
from steptrace_schema.format.retention import held_back, is_of_a_step, is_thinned
from steptrace_schema.journal.reader import JournalReader, Record
from steptrace_schema.moving.array_move import ArrayMove, MovedArray, Rows, move_arrays
from steptrace_schema.moving.disk_budget import Budget
from steptrace_schema.storage.location import Location, is_packed, journal_path
from steptrace_schema.storage.locks import exclusive
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.store.writer import TraceWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_schema.names import Kind, Status

NOT_CLOSED = "the training process ended without closing the trace"
"""The reason stored in a trace whose run was killed."""
NO_JOURNAL = f"{NOT_CLOSED}, and there is no journal beside it"
"""The reason stored in one whose run was killed where it had nothing to move."""

_THINNED = "from here on only some steps keep their tensors, as the policy's 'retain' says"
_NONE_KEPT = "no step was retained; its statistics are recorded"


class Compactor:
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
        Threads that move arrays. It may be set anew between moves.
    """

    def __init__(self, journal: Path, store: Location, workers: int = 1) -> None:
        self.workers = workers
        self._last_weights: dict[str, tuple[int, npt.NDArray[Any]]] = {}  # row count, last row
        self._reader = JournalReader(journal)
        self._declaration = self._reader.declaration()
        attributes = self._declaration.attributes
        limit = DiskLimit.of(attributes.policy)
        self._writer = TraceWriter(store, attributes, limit.store if limit else None)
        self._shard_steps = self._writer.attributes.shard_steps
        self._retain = attributes.policy.retain
        self._chooser = None if self._retain == "all" else self._retain.chooser()
        self._budget: Budget | None = None
        if limit is not None and (room := self._writer.room) is not None:
            self._budget = Budget(limit, self._retain, self._writer, room, self._reader)
        self._thins = self._chooser is not None or limit is not None
        self._kept: set[int] = set()
        self._opened: dict[Path, Record] = {}
        self._left: list[Path] = []
        left = self._reader.paths()
        if self._chooser is not None and (noted := self._reader.noted()) is not None:
            self._chooser.resume(noted, self._records(left))
        self._delete(left, self.records_moved)

    @property
    def records_moved(self) -> int:
        """How many records have been moved since the run began."""
        return self._writer.attributes.records

    @property
    def records_pending(self) -> int:
        """How many records wait in the journal."""
        return len(self._reader.paths(self.records_moved))

    def move_ready(self) -> int:
        """Move all whole shards of records; return how many records were moved.

        Records of steps that may still have to be kept in full stay, while the policy's limit has
        room for them.

        Raises
        ------
        DiskLimitError
            If not even what is kept of every step has room within the policy's limit.
        """
        moved = 0
        while paths := self._reader.paths(self.records_moved):
            due = paths[: len(paths) - self._held_back(paths)]
            if len(due) < self._shard_steps:
                if self._budget is None or not self._budget.is_pressed:
                    break
                due = paths[: self._due()]  # no more than has to be moved
            if self._chooser is not None:
                self._choose(self._records(paths), ended=False, crashed=False)
            while due:
                count = self._move(due[: self._due()])
                moved += count
                due = due[count:] if len(due) - count >= self._shard_steps else []
        return moved

    def _held_back(self, paths: list[Path]) -> int:
        """Return how many of the newest records wait until it is clear which are kept."""
        if self._retain == "all" or len(paths) < self._shard_steps:
            return 0
        return held_back(self._records(paths), self._retain.waiting)

    def _records(self, paths: list[Path]) -> list[Record]:
        return [
            self._opened.get(path) or self._opened.setdefault(path, Record(path)) for path in paths
        ]

    def _choose(self, records: list[Record], *, ended: bool, crashed: bool) -> None:
        if self._chooser is not None:
            self._kept = self._chooser.kept(records, ended=ended, crashed=crashed)
            if (noted := self._chooser.noted()) is not None:
                self._reader.note(noted, self._writer.attributes.policy.durability)

    def move_all(self) -> Iterator[int]:
        """Move every record that is left, yielding how many each time."""
        while paths := self._reader.paths(self.records_moved):
            while paths:
                moved = self._move(paths[: self._due()])
                paths = paths[moved:]
                yield moved

    def _due(self) -> int:
        """Return how many records complete a shard, where each one is a row."""
        rows = self._writer.attributes.steps_recorded.get("scalars", 0)
        return self._shard_steps - rows % self._shard_steps

    def finish(self, status: Status, reason: str | None) -> None:
        """Move what is left, set the trace's status, and delete the journal."""
        self._declaration = self._reader.declaration()
        if self._chooser is not None:
            records = self._records(self._reader.paths(self.records_moved))
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
        self._writer.trim()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        attributes = self._attributes()
        update = {
            "status": status,
            "status_reason": reason,
            "finished": now,
            "missing": (*attributes.missing, *self._never_kept(attributes, reason)),
        }
        self._writer.commit(attributes.model_copy(update=update))
        with suppress(DiskLimitError):  # a copy that readers can do without
            self._writer.consolidate()
        self._reader.clear()

    def _attributes(self) -> TraceAttributes:
        """Return the latest attributes from the trainer with what the store has committed."""
        closing = self._reader.closing()
        latest = closing.attributes if closing else self._declaration.attributes
        committed = self._writer.attributes
        missing = (*latest.missing, *(m for m in committed.missing if m not in latest.missing))
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
            }
        )

    def _move(self, paths: list[Path]) -> int:
        """Move records, with as many of their tensors as there is room for.

        Raises
        ------
        DiskLimitError
            If there is not even room for them without their tensors.
        """
        self._declaration = self._reader.declaration()  # made before the records that need it
        records = self._records(paths)
        wanted = self._wanted(records)
        if self._budget is None:
            self._write(records, self._kinds(records, wanted), ())
        else:
            self._write_within(self._budget, records, wanted)
        self._delete([*self._left, *paths], records[-1].index + 1)
        return len(paths)

    def _delete(self, paths: list[Path], moved: int) -> None:
        """Delete those of `paths` that are in the store, also where an earlier mover did not.

        The last one stays until the next move where the store may lack its weights, from which the
        next update is computed; a record that is counted as moved is not read as data.
        """
        done = [path for path in paths if int(path.stem) < moved]
        self._left = done[len(done) - self._thins :]
        for path in done[: len(done) - len(self._left)]:
            path.unlink(missing_ok=True)
            self._opened.pop(path, None)

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
        """Return the records whose tensors are worth keeping; those after the last step are."""
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
        derived = self._derives_updates
        rows = dict(self._writer.attributes.steps_recorded)
        described = dict(self._writer.attributes.statistics_recorded)
        moves = [
            self._array_move(spec, new, updates=derived and kind == "weights")
            for kind, new in kinds.items()
            for spec in self._write_static(new)
        ]
        moved = {result.key: result for result in move_arrays(moves, self.workers)}
        for kind, new in kinds.items():
            results = [moved[spec.key] for spec in new.specs if spec.key in moved]
            if not results:
                continue
            if new.kept_steps:
                self._writer.write_steps(kind, new.start, new.kept_steps)
            rows[kind] = new.start + len(new.kept_steps)
            if self._thins and is_thinned(kind):
                described[kind] = new.described + len(new.steps)
            self._write_statistics(kind, new.described, new.steps, results)
            if derived and kind == "weights":
                written = rows.get("updates", 0)
                rows["updates"] = self._write_update_statistics(written, new, results)
        attributes = self._attributes()
        missing = [entry for move in moves for entry in moved[move.spec.key].missing]
        self._writer.commit(
            attributes.model_copy(
                update={
                    "steps_recorded": rows,
                    "statistics_recorded": described,
                    "events": self._noting(attributes, kinds.values(), notes),
                    "records": records[-1].index + 1,
                    "missing": _merge(attributes.missing, missing),
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
        known = {event.message for event in attributes.events}
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        events = [
            Event(time=now, message=message, step=step)
            for step, message in found
            if message not in known
        ]
        return (*attributes.events, *events)

    def _never_kept(self, attributes: TraceAttributes, ended: str | None) -> Iterator[Missing]:
        """Yield what has no tensor, because no step was worth keeping, or had room."""
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

    def _write_static(self, new: Rows) -> Iterator[ArraySpec]:
        """Write the arrays without a step dimension, and yield the others."""
        for spec in new.specs:
            if not spec.static:
                yield spec
                continue
            for record in new.records:
                if spec.key in record.keys:
                    self._writer.write_static(spec, record.read(spec.key))

    def _array_move(self, spec: ArraySpec, new: Rows, *, updates: bool) -> ArrayMove:
        if spec.statistics_only:
            return ArrayMove(spec, None, new.start, new.records, False, None, new.kept)
        count = len(new.kept_steps)
        writer = self._writer.array(spec, new.start, count) if count else None
        before = self._row_before(spec, new) if updates else None
        return ArrayMove(spec, writer, new.start, new.records, updates, before, new.kept)

    def _row_before(self, spec: ArraySpec, new: Rows) -> npt.NDArray[Any] | None:
        if not new.described:
            return None
        if (known := self._last_weights.get(spec.key)) is not None and known[0] == new.described:
            return known[1]
        if not self._thins:
            return self._writer.array(spec, new.start, len(new.records)).read_row(new.start - 1)
        for path in self._reader.paths(self.records_moved - 1)[:1]:
            left = Record(path)
            if left.index < self.records_moved and spec.key in left.keys:
                return left.read(spec.key)
        return None

    def _write_statistics(
        self, kind: Kind, start: int, steps: list[int], results: list[MovedArray]
    ) -> None:
        tensors = [split_key(r.key)[1] for r in results if r.statistics is not None]
        values = [r.statistics for r in results if r.statistics is not None]
        if values:
            self._writer.write_statistics(
                kind, tuple(tensors), start, steps, np.stack(values, axis=1)
            )

    def _write_update_statistics(self, written: int, new: Rows, results: list[MovedArray]) -> int:
        """Keep statistics of the updates between consecutive weights; return their new count."""
        for result in results:
            if result.last is not None:
                self._last_weights[result.key] = (new.described + len(new.steps), result.last)
        start = new.described
        previous = self._writer.read_step("weights", start - 1) if start else None
        consecutive = [
            row
            for row, (before, after) in enumerate(itertools.pairwise([previous, *new.steps]))
            if before is not None and after == before + 1
        ]
        if not consecutive:
            return written
        tensors = tuple(split_key(r.key)[1] for r in results if r.updates is not None)
        if not tensors:
            return written
        values = np.stack([r.updates for r in results if r.updates is not None], axis=1)
        labels = [new.steps[row] - 1 for row in consecutive]
        self._writer.write_statistics("updates", tensors, written, labels, values[consecutive])
        return written + len(consecutive)


def _by_kind(arrays: tuple[ArraySpec, ...]) -> dict[Kind, list[ArraySpec]]:
    groups: dict[Kind, list[ArraySpec]] = defaultdict(list)
    for spec in arrays:
        groups[spec.kind].append(spec)
    return groups


def _merge(known: tuple[Missing, ...], found: list[Missing]) -> tuple[Missing, ...]:
    """Add `found` to `known`, one entry per tensor and reason."""
    merged = {(m.kind, m.path, m.reason): m for m in known}
    for entry in found:
        key = (entry.kind, entry.path, entry.reason)
        if any(m.steps is None and (m.kind, m.path) == key[:2] for m in known):
            continue
        earlier = merged.get(key)
        steps = sorted({*((earlier and earlier.steps) or ()), *(entry.steps or ())})
        merged[key] = entry.model_copy(update={"steps": tuple(steps)})
    return tuple(merged.values())


def all_cores() -> int:
    """Return how many threads move a journal while no training needs the processor."""
    return os.cpu_count() or 1


def recover(store: Location) -> int:
    """Finish the trace at `store` from the journal beside it; return the records moved.

    A trace without a journal has nothing to move, and is left as it is, but for one that still says
    that it is being recorded: a run was killed as it was to go on with it.

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
        compactor = Compactor(journal, store, all_cores())
        pending = compactor.records_pending
        closing = reader.closing()
        if closing:
            compactor.finish(closing.status, closing.reason)
        else:
            compactor.finish("incomplete", NOT_CLOSED)
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
