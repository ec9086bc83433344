"""What the moves of one store may still write within the policy's ``disk_limit``."""

from __future__ import annotations

import bisect
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from steptrace_schema.errors import DiskLimitError
from steptrace_schema.format.json_text import metadata_json
from steptrace_schema.format.retention import RetainLast, is_thinned
from steptrace_schema.moving.choosing import is_of_a_step
from steptrace_schema.moving.disk_estimate import CONSOLIDATED, Estimate
from steptrace_schema.moving.thinning import Thinning
from steptrace_schema.names import METADATA_FILE
from steptrace_schema.statistics.describe import has_statistics

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from steptrace_schema.format.attributes import Event
    from steptrace_schema.format.disk_limit import DiskLimit
    from steptrace_schema.format.layout import ArraySpec
    from steptrace_schema.format.retention import Retain
    from steptrace_schema.journal.reader import JournalReader
    from steptrace_schema.journal.record import Record
    from steptrace_schema.moving.array_move import Rows
    from steptrace_schema.names import Kind
    from steptrace_schema.storage.limited_files import Room
    from steptrace_schema.store.writer import TraceWriter

_MARGIN: Final = 8 * 2**10


class Budget:
    """Decides which records of a move keep their tensors, and whether the move has room.

    Parameters
    ----------
    limit, retain
        What the policy says.
    writer, room
        The store, and what it may take.
    reader
        The journal.
    """

    def __init__(
        self,
        limit: DiskLimit,
        retain: Retain,
        writer: TraceWriter,
        room: Room,
        reader: JournalReader,
    ) -> None:
        self._limit = limit
        self._retain = retain
        self._writer = writer
        self._room = room
        self._reader = reader
        self._has_ended = False
        self._thinning = Thinning(limit, retain)
        attributes = writer.attributes
        self._estimate = Estimate(room, attributes.policy.profile, attributes.shard_steps)

    @property
    def is_pressed(self) -> bool:
        """Whether records have to be moved although more could be waited for."""
        return self._reader.pending().nbytes > self._limit.waiting

    def adapt(self) -> None:
        """Keep fewer steps where much of the room has been used."""
        reserved = self._closing() + self._newest_bytes()
        self._thinning.adapt(self._limit.store - reserved, self._room.left - reserved)

    def prefer_newest(self, records: Sequence[Record]) -> None:
        """Keep as many of the newest steps as there is room for, where the policy wants those.

        Parameters
        ----------
        records
            All that are left at the end of the run.
        """
        self._has_ended = True
        if not isinstance(self._retain, RetainLast):
            return
        steps = sorted({record.step for record in records if is_of_a_step(record)})
        wanted = steps[-self._retain.steps :]
        arrays = self._reader.declaration().arrays
        left = self._room.left - self._closing() - self._described(arrays, len(records))
        counts = range(1, len(wanted) + 1)
        fitting = bisect.bisect_right(counts, left, key=lambda count: self._tensors(arrays, count))
        self._thinning.prefer(wanted[len(wanted) - fitting :])

    def kept(self, records: Sequence[Record], wanted: set[int]) -> set[int]:
        """Return those of `wanted` that keep their tensors, all by their index.

        Parameters
        ----------
        records
            Those of a move.
        wanted
            Those that ``retain`` keeps.
        """
        first = self._writer.attributes.steps_recorded.get("scalars", 0)
        of_steps = [record for record in records if is_of_a_step(record)]
        steps = self._thinning.kept(
            (record.step, row)
            for row, record in enumerate(of_steps, first)
            if record.index in wanted
        )
        return {
            record.index
            for record in records
            if record.index in wanted
            and (
                record.step in steps if is_of_a_step(record) else self._thinning.keeps_last_weights
            )
        }

    def notes(self, records: Sequence[Record], dropped: set[int]) -> list[tuple[int, str]]:
        """Return what the trace has to say of `dropped` records, which ``retain`` keeps."""
        return self._thinning.notes(
            record.step for record in records if record.index in dropped and is_of_a_step(record)
        )

    def tighten(self) -> bool:
        """Keep less from here on; return False if nothing is left to drop."""
        return self._thinning.tighten()

    def require(self, kinds: Mapping[Kind, Rows], *, derived: bool, workers: int) -> None:
        """Raise if a move has no room, besides what the end of the run takes.

        Parameters
        ----------
        kinds
            The rows that it writes.
        derived
            Whether it describes updates.
        workers
            How many files it writes at a time.

        Raises
        ------
        DiskLimitError
            If it may take more than is left.
        """
        needed = self._closing() + workers * self._room.largest
        for kind, new in kinds.items():
            kept, is_last = len(new.kept_steps), not all(map(is_of_a_step, new.records))
            for spec in new.specs:
                if spec.static:
                    if any(spec.key in record.keys for record in new.records):
                        needed += self._estimate.static(spec)
                elif not spec.statistics_only:
                    at_end = not is_last and self._comes_at_the_end(kind)
                    needed += self._estimate.rows(spec, new.start, kept + at_end)
                    if at_end and kept:
                        needed += self._estimate.last_object(spec, new.start + kept)
            names = [spec.path for spec in new.specs if has_statistics(spec)]
            for each in (kind, "updates") if derived and kind == "weights" else (kind,):
                needed += self._estimate.statistics(each, names, len(new.steps))
        if needed > self._room.left:
            msg = f"{needed} bytes are needed, and {self._room.left} are left"
            raise DiskLimitError(msg)

    def _comes_at_the_end(self, kind: Kind) -> bool:
        """Whether a row more is to have room whenever the run ends: the last weights are."""
        wants_newest = isinstance(self._retain, RetainLast) and not self._has_ended
        return kind == "weights" or (wants_newest and is_thinned(kind))

    def used_up(self, step: int) -> DiskLimitError:
        """Return the error that says from which step on nothing has room."""
        return DiskLimitError(f"{self._limit} was used up at step {step}")

    def why_absent(
        self, spec: ArraySpec, reason: str | None, events: Sequence[Event]
    ) -> str | None:
        """Return why the store has no array for `spec`; None if it has, or for another reason.

        Parameters
        ----------
        spec
            What is declared.
        reason, events
            Why the run ended, and what happened to its recording.
        """
        said = (reason or "", *(event.message for event in events))
        if self._room.size(f"{spec.key}/{METADATA_FILE}") or not any(
            str(self._limit) in s for s in said
        ):
            return None
        return f"no step with this tensor had room within {self._limit}"

    def _closing(self) -> int:
        """Return what has to be left for the end of the run: its status, and all metadata."""
        fields = self._writer.attributes.model_dump(mode="json")
        # The trainer may have declared more since.
        declared = self._reader.declaration().attributes.model_dump(mode="json")
        size = max(len(metadata_json(each)) for each in (fields, declared))
        root = max(size, self._room.size(METADATA_FILE))
        return int(CONSOLIDATED * self._room.metadata) + 3 * root + _MARGIN

    def _newest_bytes(self) -> int:
        """Return what has to be left for the newest steps, which are moved at the end."""
        if not isinstance(self._retain, RetainLast):
            return 0
        arrays = self._reader.declaration().arrays
        return min(self._limit.waiting, self._tensors(arrays, self._retain.steps))

    def _tensors(self, arrays: Iterable[ArraySpec], rows: int) -> int:
        """Return what `rows` more rows of all tensors take."""
        recorded = self._writer.attributes.steps_recorded
        return sum(
            self._estimate.rows(spec, recorded.get(spec.kind, 0), rows + (spec.kind == "weights"))
            for spec in arrays
            if is_thinned(spec.kind) and not spec.static and not spec.statistics_only
        )

    def _described(self, arrays: Iterable[ArraySpec], rows: int) -> int:
        """Return what `rows` more rows of everything else take."""
        names: dict[str, list[str]] = defaultdict(list)
        taken = self._room.largest
        for spec in arrays:
            if has_statistics(spec):
                names[spec.kind].append(spec.path)
            if not is_thinned(spec.kind):
                start = self._writer.attributes.rows(spec.key)
                taken += self._estimate.rows(spec, start, rows)
        names["updates"] = names["updates"] or names["weights"]
        return taken + sum(self._estimate.statistics(*found, rows) for found in names.items())
