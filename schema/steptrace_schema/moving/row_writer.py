"""Writing the rows of some records into the store, with their statistics."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.format.attributes import Missing
from steptrace_schema.format.layout import split_key
from steptrace_schema.format.retention import is_thinned
from steptrace_schema.journal.fitting import refuse_misfit
from steptrace_schema.journal.record import Record
from steptrace_schema.moving.array_move import ArrayMove, MovedArray, Rows, move_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_schema.encoding.expansion import Expansion
    from steptrace_schema.format.layout import ArraySpec
    from steptrace_schema.journal.reader import JournalReader
    from steptrace_schema.names import Kind
    from steptrace_schema.store.writer import TraceWriter


_BEGINS: Final = "it begins at a later step"
_LATER: Final = f"it was not there yet, or not recorded: {_BEGINS}"


@dataclasses.dataclass(frozen=True)
class WrittenRows:
    """How many rows the store has, once they are committed, and what they lack.

    Attributes
    ----------
    steps_recorded, statistics_recorded
        Rows of each kind, as `TraceAttributes` has them.
    missing
        Tensors that some of the new rows do not have.
    """

    steps_recorded: dict[Kind, int]
    statistics_recorded: dict[Kind, int]
    missing: list[Missing]


class RowWriter:
    """Writes the rows of records, without committing them.

    Parameters
    ----------
    store
        The store that is being written.
    journal
        The journal that the records come from.
    thins
        Whether only some steps keep their tensors.
    expansion
        Bounds what is made of records that a stranger may have written; None for the training's
        own.
    """

    def __init__(
        self,
        store: TraceWriter,
        journal: JournalReader,
        *,
        thins: bool,
        expansion: Expansion | None = None,
    ) -> None:
        self._expansion = expansion
        self._store = store
        self._journal = journal
        self._thins = thins
        self._last_weights: dict[str, tuple[int, npt.NDArray[Any]]] = {}  # row count, last row

    def write(self, kinds: dict[Kind, Rows], *, derived: bool, workers: int) -> WrittenRows:
        """Write rows of each kind.

        Parameters
        ----------
        kinds
            The rows.
        derived
            Whether updates follow from the weights, so that their statistics are computed here.
        workers
            Threads that move arrays.
        """
        rows = dict(self._store.attributes.steps_recorded)
        described = dict(self._store.attributes.statistics_recorded)
        later = [entry for kind, new in kinds.items() for entry in self._beginning_later(kind, new)]
        moves = [
            self._array_move(spec, new, updates=derived and kind == "weights")
            for kind, new in kinds.items()
            for spec in self._write_static(new)
        ]
        self._refuse_claims(moves)
        moved = {result.key: result for result in move_arrays(moves, workers)}
        for kind, new in kinds.items():
            results = [moved[spec.key] for spec in new.specs if spec.key in moved]
            if not results:
                continue
            if new.kept_steps:
                self._store.write_steps(kind, new.start, new.kept_steps)
            rows[kind] = new.start + len(new.kept_steps)
            if self._thins and is_thinned(kind):
                described[kind] = new.described + len(new.steps)
            self._write_statistics(kind, new.described, new.steps, results)
            if derived and kind == "weights":
                written = rows.get("updates", 0)
                begins = all(move.before is None for move in moves if move.updates)
                found = self._write_update_statistics(written, new, results, begins=begins)
                rows["updates"] = found
        missing = [entry for move in moves for entry in moved[move.spec.key].missing]
        return WrittenRows(rows, described, [*missing, *later])

    def _beginning_later(self, kind: Kind, new: Rows) -> Iterator[Missing]:
        """Yield the arrays that begin to exist with these rows, as missing at the steps before."""
        if not new.start or kind == "logged":
            return
        steps: tuple[int, ...] = ()
        for spec in new.specs:
            if spec.static or spec.statistics_only or not self._store.is_new(kind, spec.path):
                continue
            steps = steps or self._store.read_steps(kind, new.start)
            reason = _LATER if spec.absent is None else f"{spec.absent}; {_BEGINS}"
            yield Missing(kind=kind, path=spec.path, reason=reason, steps=steps)

    def _refuse_claims(self, moves: list[ArrayMove]) -> None:
        """Refuse rows that are declared far larger than what the records hold."""
        if self._expansion is None:
            return
        records = {record.index: record.nbytes for move in moves for record in move.records}
        try:
            self._expansion.take_together([m.nbytes for m in moves], sum(records.values()))
        except ValueError as error:
            msg = (
                f"{self._journal.directory}: what is declared does not fit the records ({error}); "
                "do not trust this journal"
            )
            raise DamagedTraceError(msg) from error

    def _write_static(self, new: Rows) -> Iterator[ArraySpec]:
        """Write the arrays without a step dimension, and yield the others."""
        for spec in new.specs:
            if not spec.static:
                yield spec
                continue
            for record in new.records:
                if spec.key in record.keys:
                    values = record.read(spec.key)
                    refuse_misfit(record.path, spec, values.shape, values.dtype)
                    self._store.write_static(spec, values.astype(spec.dtype, copy=False))

    def _array_move(self, spec: ArraySpec, new: Rows, *, updates: bool) -> ArrayMove:
        if spec.holds_statistics:
            return ArrayMove(spec, None, new.start, new.records, False, None, new.kept, None)
        count = 0 if spec.statistics_only else len(new.kept_steps)
        writer = self._store.array(spec, new.start, count) if count else None
        before = self._row_before(spec, new) if updates else None
        return ArrayMove(spec, writer, new.start, new.records, updates, before, new.kept, new.small)

    def _row_before(self, spec: ArraySpec, new: Rows) -> npt.NDArray[Any] | None:
        if not new.described:
            return None
        if (known := self._last_weights.get(spec.key)) is not None and known[0] == new.described:
            return known[1]
        if not self._thins and not spec.statistics_only:
            return self._store.array(spec, new.start, len(new.records)).read_row(new.start - 1)
        moved = self._store.attributes.records
        for place in self._journal.places(moved - 1)[:1]:
            left = Record(place)
            if left.index < moved and spec.key in left.keys:
                return left.read(spec.key)
        return None

    def _write_statistics(
        self, kind: Kind, start: int, steps: list[int], results: list[MovedArray]
    ) -> None:
        tensors = [split_key(r.key)[1] for r in results if r.statistics is not None]
        values = [r.statistics for r in results if r.statistics is not None]
        digests = [r.digests for r in results if r.statistics is not None]
        if values:
            self._store.write_statistics(
                kind, tuple(tensors), start, steps, np.stack(values, axis=1)
            )
            self._store.write_digests(kind, start, np.stack(digests, axis=1))

    def _write_update_statistics(
        self, written: int, new: Rows, results: list[MovedArray], *, begins: bool
    ) -> int:
        """Keep statistics of the updates between consecutive weights; return their new count.

        Where `begins`, the weights before the first ones are not known any more.
        """
        for result in results:
            if result.last is not None:
                self._last_weights[result.key] = (new.described + len(new.steps), result.last)
        start = new.described
        previous = None if begins else self._store.read_step("weights", start - 1)
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
        self._store.write_statistics("updates", tensors, written, labels, values[consecutive])
        return written + len(consecutive)


def merge_missing(known: tuple[Missing, ...], found: list[Missing]) -> tuple[Missing, ...]:
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
