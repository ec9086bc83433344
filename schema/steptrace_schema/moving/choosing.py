"""Which records of a journal keep their tensors, as the policy's ``retain`` says."""

from __future__ import annotations

import abc
import json
import statistics
from collections import deque
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from pydantic import TypeAdapter

from steptrace_schema.format.layout import split_key
from steptrace_schema.format.retention import MARK, Retain, RetainAround, RetainLast
from steptrace_schema.names import LOSS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from steptrace_schema.journal.record import Record


_JUMP: Final = 5.0


_NORMS: Final = 50


_FEWEST_NORMS: Final = 5


_Noted: Final = TypeAdapter(tuple[int, list[int], list[float]])
"""The last record that was seen, the steps with a trigger, and the norms of the last updates."""


class Chooser(abc.ABC):
    """Chooses which steps keep their tensors."""

    @abc.abstractmethod
    def kept(self, records: Sequence[Record], *, ended: bool, crashed: bool) -> set[int]:
        """Return the steps of `records` that keep their tensors.

        Parameters
        ----------
        records
            All that are in the journal, in order.
        ended
            Whether no more will come.
        crashed
            Whether the run did not come to its end.
        """

    def noted(self) -> str | None:
        """Return as JSON what later choices need of records that are deleted by then."""
        return None

    def resume(self, noted: str, records: Sequence[Record]) -> None:  # noqa: B027
        """Continue where another chooser was.

        Parameters
        ----------
        noted
            What :meth:`noted` returned.
        records
            All that are in the journal, in order, also those that are in the store already.

        Raises
        ------
        ValueError
            If `noted` is something else; then the chooser has not changed.
        """


def is_of_a_step(record: Record) -> bool:
    """Whether the record is one of a training step, not only of what was logged or the end."""
    return any(key == f"scalars/{LOSS}" for key in record.keys)


@final
class _ChooseLast(Chooser):
    def __init__(self, retain: RetainLast) -> None:
        self._retain = retain

    def kept(self, records: Sequence[Record], *, ended: bool, crashed: bool) -> set[int]:
        steps = sorted({record.step for record in records if is_of_a_step(record)})
        newest = steps[-self._retain.steps :]
        every = self._retain.every
        return {*newest, *(s for s in steps if every and s % every == 0)}


@final
class _ChooseAround(Chooser):
    def __init__(self, retain: RetainAround) -> None:
        self._retain = retain
        self._triggered: set[int] = set()
        self._norms: deque[float] = deque(maxlen=_NORMS)
        self._previous: dict[str, npt.NDArray[Any]] = {}
        self._seen = -1

    def kept(self, records: Sequence[Record], *, ended: bool, crashed: bool) -> set[int]:
        for record in records:
            if record.index > self._seen:
                self._seen = record.index
                self._watch(record)
        steps = sorted({record.step for record in records if is_of_a_step(record)})
        before, after = self._retain.before, self._retain.after
        if steps:
            self._triggered = {t for t in self._triggered if t + after >= steps[0]}
        kept = {s for s in steps if any(t - before <= s <= t + after for t in self._triggered)}
        if crashed and "crash" in self._retain.triggers:
            kept |= set(steps[-before:])
        return kept

    def noted(self) -> str | None:
        return json.dumps([self._seen, sorted(self._triggered), [*self._norms]])

    def resume(self, noted: str, records: Sequence[Record]) -> None:
        self._seen, triggered, norms = _Noted.validate_json(noted, strict=True)
        self._triggered.update(triggered)
        self._norms.extend(norms)
        for record in records:
            if record.index <= self._seen:
                self._previous = _weights(record) or self._previous

    def _watch(self, record: Record) -> None:
        """Note the record's step if it has a trigger."""
        triggers = self._retain.triggers
        jumps = "update_jump" in triggers and self._jumps(record)  # it has to see every record
        if (
            jumps
            or ("mark" in triggers and MARK in record.keys)
            or ("non_finite" in triggers and _has_non_finite(record))
        ):
            self._triggered.add(record.step)

    def _jumps(self, record: Record) -> bool:
        """Whether the update that led to the record's weights is far larger than those before."""
        weights = _weights(record)
        previous, self._previous = self._previous, weights or self._previous
        squares = [
            float(np.square(np.subtract(weights[k], previous[k], dtype=np.float64)).sum())
            for k in weights.keys() & previous.keys()
            if weights[k].dtype.kind == "f" and weights[k].shape == previous[k].shape
        ]
        if not squares:
            return False
        norm = float(np.sqrt(sum(squares)))
        enough = len(self._norms) >= _FEWEST_NORMS
        jumps = enough and norm > _JUMP * statistics.median(self._norms)
        self._norms.append(norm)
        return jumps


def _weights(record: Record) -> dict[str, npt.NDArray[Any]]:
    return {k: record.read(k) for k in record.keys if split_key(k)[0] == "weights"}


def _has_non_finite(record: Record) -> bool:
    watched = (k for k in record.keys if k == f"scalars/{LOSS}" or split_key(k)[0] == "gradients")
    arrays = (record.read(key) for key in watched)
    return any(a.dtype.kind == "f" and not np.isfinite(a).all() for a in arrays)


def held_back(records: Sequence[Record], waiting: int) -> int:
    """Return how many of the newest records belong to the `waiting` newest steps.

    Parameters
    ----------
    records
        Those in the journal, in order.
    waiting
        Steps that have to wait.
    """
    seen: set[int] = set()
    for count, record in enumerate(reversed(records)):
        seen.add(record.step)
        if len(seen) > waiting:
            return count
    return len(records)


def chooser_for(retain: Retain) -> Chooser | None:
    """Return what chooses among the records of one run, None where all keep their tensors."""
    if isinstance(retain, RetainLast):
        return _ChooseLast(retain)
    if isinstance(retain, RetainAround):
        return _ChooseAround(retain)
    return None
