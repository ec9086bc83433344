"""Moving a journal into its store: what the recorder process does, and ``steptrace recover``."""

from __future__ import annotations

import datetime
import shutil
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from steptrace_schema.attributes import Missing, TraceAttributes
from steptrace_schema.durable import persistence
from steptrace_schema.errors import NotATraceError
from steptrace_schema.journal import JournalReader, Record, journal_path
from steptrace_schema.layout import ArraySpec, fill_value, split_key
from steptrace_schema.locks import exclusive
from steptrace_schema.names import STATISTIC_NAMES, Kind, Status
from steptrace_schema.statistics import compute_statistics, has_statistics
from steptrace_schema.store import TraceWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOT_CLOSED = "the training process ended without closing the trace"
"""The reason stored in a trace whose run was killed."""

_NO_VALUE = "the step produced no value for this tensor"


class Compactor:
    """Moves the records of a journal into the store, some whole shards at a time.

    Every move ends in one atomic commit, and only then are the records deleted. Moving the same
    records again writes the same bytes, so an interruption anywhere needs no repair.

    Parameters
    ----------
    journal
        Folder of the journal.
    store
        Folder of the store; made if it is not there.
    """

    def __init__(self, journal: Path, store: Path) -> None:
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
        while self.records_pending >= self._shard_steps:
            moved += self._move(self._shard_steps)
        return moved

    def move_all(self) -> Iterator[int]:
        """Move every record that is left, yielding how many each time."""
        while self.records_pending:
            yield self._move(min(self._shard_steps, self.records_pending))

    def finish(self, status: Status, reason: str | None) -> None:
        """Move what is left, set the trace's status, and delete the journal."""
        for _ in self.move_all():
            pass
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        update = {"status": status, "status_reason": reason, "finished": now}
        self._writer.commit(self._attributes().model_copy(update=update))
        self._writer.consolidate()
        self._lasting.tree(self._store)
        self._reader.clear()

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

    def _move(self, count: int) -> int:
        paths = self._reader.paths(self.records_moved)[:count]
        records = [Record(path) for path in paths]
        arrays = self._reader.declaration().arrays
        rows = dict(self._writer.attributes.steps_recorded)
        missing: list[Missing] = []
        for kind, specs in _by_kind(arrays).items():
            present = [r for r in records if any(split_key(k)[0] == kind for k in r.keys)]
            if not present:
                continue
            start = rows.get(kind, 0)
            for spec in specs:
                missing += self._move_array(spec, start, present)
            self._move_statistics(kind, specs, start, present)
            if any(not spec.static for spec in specs):
                self._writer.write_steps(kind, start, [r.step for r in present])
                rows[kind] = start + len(present)
            if kind == "weights" and not any(spec.kind == "updates" for spec in arrays):
                rows["updates"] = self._derive_update_statistics(
                    specs, start, present, rows.get("updates", 0)
                )
        attributes = self._attributes()
        self._lasting.tree(self._store)  # before the commit, which says that it is there
        self._writer.commit(
            attributes.model_copy(
                update={
                    "steps_recorded": rows,
                    "records": records[-1].index + 1,
                    "missing": _merge(attributes.missing, missing),
                }
            )
        )
        self._lasting.tree(self._store)
        for path in paths:
            path.unlink()
        return len(paths)

    def _move_array(self, spec: ArraySpec, start: int, records: list[Record]) -> list[Missing]:
        holders = [record for record in records if spec.key in record.keys]
        if spec.static:
            for record in holders:
                self._writer.write_static(spec, record.read(spec.key))
            return []
        block = np.full(
            (len(records), *spec.shape), fill_value(spec.dtype), dtype=np.dtype(spec.dtype)
        )
        for row, record in enumerate(records):
            if spec.key in record.keys:
                values = record.read(spec.key)
                # A smaller row, of a last smaller batch, fills the leading corner.
                corner = tuple(slice(0, extent) for extent in values.shape)
                block[row, ...][corner] = values
        self._writer.write_rows(spec, start, block)
        without = tuple(record.step for record in records if spec.key not in record.keys)
        if not without:
            return []
        return [Missing(kind=spec.kind, path=spec.path, reason=_NO_VALUE, steps=without)]

    def _move_statistics(
        self, kind: Kind, specs: list[ArraySpec], start: int, records: list[Record]
    ) -> None:
        described = [spec for spec in specs if has_statistics(spec)]
        if not described:
            return
        values = np.full((len(records), len(described), len(STATISTIC_NAMES)), np.nan)
        for row, record in enumerate(records):
            for column, spec in enumerate(described):
                if spec.key in record.keys:
                    values[row, column] = compute_statistics(record.read(spec.key))
        self._writer.write_statistics(
            kind, tuple(s.path for s in described), start, [r.step for r in records], values
        )

    def _derive_update_statistics(
        self, specs: list[ArraySpec], start: int, records: list[Record], written: int
    ) -> int:
        """Keep statistics of the updates between consecutive weights; return their new count."""
        steps = [record.step for record in records]
        pairs = [row for row in range(1, len(records)) if steps[row] == steps[row - 1] + 1]
        joined = start > 0 and self._writer.read_step("weights", start - 1) == steps[0] - 1
        count = len(pairs) + joined
        if not count:
            return written
        values = np.full((count, len(specs), len(STATISTIC_NAMES)), np.nan)
        for column, spec in enumerate(specs):
            before = self._writer.read_row(spec, start - 1) if joined else None
            row = 0
            for index, record in enumerate(records):
                after = record.read(spec.key) if spec.key in record.keys else None
                if (index == 0 and joined) or index in pairs:
                    if before is not None and after is not None and before.shape == after.shape:
                        values[row, column] = compute_statistics(_difference(after, before))
                    row += 1
                before = after
        labels = ([steps[0] - 1] if joined else []) + [steps[row - 1] for row in pairs]
        self._writer.write_statistics(
            "updates", tuple(spec.path for spec in specs), written, labels, values
        )
        return written + count


def _difference(after: npt.NDArray[Any], before: npt.NDArray[Any]) -> npt.NDArray[Any]:
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN, which is the answer
        return np.asarray(after - before)


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


def recover(store: Path) -> int:
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
        compactor = Compactor(journal, store)
        pending = compactor.records_pending
        closing = reader.closing()
        if closing:
            compactor.finish(closing.status, closing.reason)
        else:
            compactor.finish("incomplete", NOT_CLOSED)
    return pending
