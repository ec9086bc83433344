"""Moving a journal into its store: what the recorder process does, and ``steptrace recover``."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from steptrace_schema.durable import persistence
from steptrace_schema.errors import NotATraceError
from steptrace_schema.journal import JournalReader, Record
from steptrace_schema.layout import ArraySpec, split_key
from steptrace_schema.location import Location, journal_path
from steptrace_schema.locks import exclusive
from steptrace_schema.moving import ArrayMove, MovedArray, move_arrays
from steptrace_schema.writer import ArrayWriter, TraceWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_schema.attributes import Missing, TraceAttributes
    from steptrace_schema.names import Kind, Status

NOT_CLOSED = "the training process ended without closing the trace"
"""The reason stored in a trace whose run was killed."""


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
        declaration = self._reader.declaration()
        self._writer = TraceWriter(store, declaration.attributes)
        self._store = store
        self._lasting = persistence(declaration.attributes.policy.durability)
        self._shard_steps = self._writer.attributes.shard_steps

    @property
    def records_moved(self) -> int:
        """How many records have been moved since the run began."""
        return self._writer.attributes.records

    @property
    def records_pending(self) -> int:
        """How many records wait in the journal."""
        return len(self._reader.paths(self.records_moved))

    def move_ready(self) -> int:
        """Move all whole shards of records; return how many records were moved."""
        moved = 0
        while len(paths := self._reader.paths(self.records_moved)) >= self._shard_steps:
            moved += self._move(paths[: self._due()])
        return moved

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
        for _ in self.move_all():
            pass
        self._writer.trim()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        update = {"status": status, "status_reason": reason, "finished": now}
        self._writer.commit(self._attributes().model_copy(update=update))
        self._writer.consolidate()
        self._make_last()
        self._reader.clear()

    def _make_last(self) -> None:
        if isinstance(self._store, Path):  # an object store keeps what it has taken
            self._lasting.tree(self._store)

    def _attributes(self) -> TraceAttributes:
        """Return the latest attributes from the trainer with what the store has committed."""
        closing = self._reader.closing()
        latest = closing.attributes if closing else self._reader.declaration().attributes
        committed = self._writer.attributes
        missing = (*latest.missing, *(m for m in committed.missing if m not in latest.missing))
        return latest.model_copy(
            update={
                "missing": missing,
                "shard_steps": committed.shard_steps,
                "steps_recorded": committed.steps_recorded,
                "records": committed.records,
            }
        )

    def _move(self, paths: list[Path]) -> int:
        records = [Record(path) for path in paths]
        arrays = self._reader.declaration().arrays
        derived = not any(spec.kind == "updates" for spec in arrays)
        rows = dict(self._writer.attributes.steps_recorded)
        kinds = {
            kind: _Rows(tuple(specs), rows.get(kind, 0), tuple(present))
            for kind, specs in _by_kind(arrays).items()
            if (present := [r for r in records if any(split_key(k)[0] == kind for k in r.keys)])
        }
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
            self._writer.write_steps(kind, new.start, new.steps)
            rows[kind] = new.start + len(new.steps)
            self._write_statistics(kind, new.start, new.steps, results)
            if derived and kind == "weights":
                written = rows.get("updates", 0)
                rows["updates"] = self._write_update_statistics(written, new, results)
        attributes = self._attributes()
        self._make_last()  # before the commit, which says that it is there
        missing = [entry for move in moves for entry in moved[move.spec.key].missing]
        self._writer.commit(
            attributes.model_copy(
                update={
                    "steps_recorded": rows,
                    "records": records[-1].index + 1,
                    "missing": _merge(attributes.missing, missing),
                }
            )
        )
        self._make_last()
        for path in paths:
            path.unlink()
        return len(paths)

    def _write_static(self, new: _Rows) -> Iterator[ArraySpec]:
        """Write the arrays without a step dimension, and yield the others."""
        for spec in new.specs:
            if not spec.static:
                yield spec
                continue
            for record in new.records:
                if spec.key in record.keys:
                    self._writer.write_static(spec, record.read(spec.key))

    def _array_move(self, spec: ArraySpec, new: _Rows, *, updates: bool) -> ArrayMove:
        if spec.statistics_only:
            return ArrayMove(spec, None, new.start, new.records, False, None)
        writer = self._writer.array(spec, new.start, len(new.records))
        before = self._row_before(spec, new, writer) if updates else None
        return ArrayMove(spec, writer, new.start, new.records, updates, before)

    def _row_before(
        self, spec: ArraySpec, new: _Rows, writer: ArrayWriter
    ) -> npt.NDArray[Any] | None:
        if not new.start:
            return None
        if (known := self._last_weights.get(spec.key)) is not None and known[0] == new.start:
            return known[1]
        return writer.read_row(new.start - 1)

    def _write_statistics(
        self, kind: Kind, start: int, steps: list[int], results: list[MovedArray]
    ) -> None:
        tensors = [split_key(r.key)[1] for r in results if r.statistics is not None]
        values = [r.statistics for r in results if r.statistics is not None]
        if values:
            self._writer.write_statistics(
                kind, tuple(tensors), start, steps, np.stack(values, axis=1)
            )

    def _write_update_statistics(self, written: int, new: _Rows, results: list[MovedArray]) -> int:
        """Keep statistics of the updates between consecutive weights; return their new count."""
        for result in results:
            if result.last is not None:
                self._last_weights[result.key] = (new.start + len(new.steps), result.last)
        previous = self._writer.read_step("weights", new.start - 1) if new.start else None
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


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The rows of one kind that are to be moved: the row they begin at, and a record for each."""

    specs: tuple[ArraySpec, ...]
    start: int
    records: tuple[Record, ...]

    @functools.cached_property
    def steps(self) -> list[int]:
        return [record.step for record in self.records]


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

    A trace without a journal is finished already, and is left as it is.

    Raises
    ------
    NotATraceError
        If there is neither a store nor a journal.
    TraceError
        If its run is still going on.
    """
    journal = journal_path(store)
    reader = JournalReader(journal)
    if not reader.exists:
        if reader.is_leftover:
            shutil.rmtree(journal)
        if not store.exists():
            msg = f"there is neither a trace at {store} nor a journal at {journal}"
            raise NotATraceError(msg)
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
