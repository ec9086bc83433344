"""How a trace stays within its policy's ``disk_limit``.

Journal and store each have a fixed share, so that neither process has to ask the other. As the
store's share is used up, fewer and fewer steps keep their tensors.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Final

from steptrace_schema.format.retention import RetainLast
from steptrace_schema.human import human_bytes, ordinal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from steptrace_schema.format.attributes import Policy
    from steptrace_schema.format.retention import Retain

BALLAST: Final = 256 * 2**10
"""More than it takes to say how a run ended."""
_BALLAST_PARTS: Final = 32
_WAITING: Final = 3 / 8
_LEFT: Final = 0.75
"""What is left of the room for tensors when the stride doubles."""
_NONE: Final = 2**16
"""A stride at which no step keeps its tensors."""


@dataclasses.dataclass(frozen=True)
class DiskLimit:
    """The shares of journal and store.

    Attributes
    ----------
    total
        Bytes that both may take together.
    holds_newest
        Whether the newest steps wait in the journal, which then needs more.
    """

    total: int
    holds_newest: bool

    @classmethod
    def of(cls, policy: Policy) -> DiskLimit | None:
        """Return the limit of a policy, None where it has none."""
        if policy.disk_limit is None:
            return None
        return cls(policy.disk_limit, policy.retain != "all")

    @property
    def journal(self) -> int:
        """Bytes that the journal may take."""
        return self.total // (2 if self.holds_newest else 4)

    @property
    def store(self) -> int:
        """Bytes that the store may take."""
        return self.total - self.journal

    @property
    def waiting(self) -> int:
        """Bytes of records that may wait; of more, the oldest are moved, whatever would wait."""
        return int(self.journal * _WAITING)

    def largest_record(self, besides: int) -> int:
        """Return how many bytes a record may take, so that it gets its turn.

        Parameters
        ----------
        besides
            What the journal holds besides records.
        """
        room = self.journal - besides
        # The last record that was moved stays, and those that wait need not be moved.
        return max(0, min(room // 2, room - self.waiting))

    @property
    def ballast(self) -> int:
        """Bytes that the journal keeps free for the end, where the disk has not more."""
        return min(BALLAST, self.total // _BALLAST_PARTS)

    def least(self, record: int, besides: int, store: int) -> int:
        """Return the smallest limit that records like one have room within.

        Parameters
        ----------
        record, besides
            Bytes of the record, and of what the journal holds besides records and ballast.
        store
            Bytes that the store takes without any tensor.
        """
        journal = 1 / 2 if self.holds_newest else 1 / 4
        # As in `largest_record`, where the ballast is a part of the limit too.
        halves = (2 * record + besides) / (journal - 1 / _BALLAST_PARTS)
        waiting = (record + besides) / (journal * (1 - _WAITING) - 1 / _BALLAST_PARTS)
        return math.ceil(max(halves, waiting, store / (1 - journal)))

    def __str__(self) -> str:
        return f"the policy's disk_limit of {human_bytes(self.total)}"


def stride_for(room: int, left: int) -> int:
    """Return of how many steps one keeps its tensors, a power of two.

    It doubles each time that a quarter of the room that was left has been used: a run that goes on
    and on keeps ever fewer, at distances that grow with its length.

    Parameters
    ----------
    room
        Bytes that there were for tensors at first.
    left
        Bytes that are left.

    Examples
    --------
    >>> [stride_for(100, left) for left in (100, 76, 75, 57, 56, 1, 0)]
    [1, 1, 2, 2, 4, 65536, 65536]
    """
    if left <= 0:
        return _NONE
    if left >= room:
        return 1
    return int(min(_NONE, 2 ** int(math.log(left / room, _LEFT) + 1e-9)))


class Thinning:
    """Which of the steps that ``retain`` keeps do keep their tensors within the limit.

    Parameters
    ----------
    limit, retain
        What the policy says.
    """

    def __init__(self, limit: DiskLimit, retain: Retain) -> None:
        self._limit = limit
        self._every = retain.every if isinstance(retain, RetainLast) else None
        self._only_newest = isinstance(retain, RetainLast)
        self._named = "" if retain == "all" else " that 'retain' names"
        self._newest: list[int] = []
        self.stride = 1
        self.keeps_last_weights = True

    def adapt(self, room: int, left: int) -> None:
        """Keep fewer steps where little is left of the `room` that there was for tensors."""
        self.stride = max(self.stride, stride_for(room, left))

    def prefer(self, newest: Iterable[int]) -> None:
        """Keep these steps, the newest of the run, before any other."""
        self._newest = sorted(newest)

    def kept(self, candidates: Iterable[tuple[int, int]]) -> set[int]:
        """Return which steps keep their tensors.

        Parameters
        ----------
        candidates
            Step, and its row among all recorded steps, of those that ``retain`` keeps.
        """
        newest = set(self._newest)
        return {step for step, row in candidates if step in newest or self._is_kept(step, row)}

    def _is_kept(self, step: int, row: int) -> bool:
        if self.stride >= _NONE:
            return False
        if self._only_newest:
            return self._every is not None and step % (self._every * self.stride) == 0
        return row % self.stride == 0

    def tighten(self) -> bool:
        """Keep less; return False if there is nothing left to give up."""
        if self.stride < _NONE:
            self.stride *= 2
        elif self._newest:
            del self._newest[: -(-len(self._newest) // 2)]
        elif self.keeps_last_weights:
            self.keeps_last_weights = False
        else:
            return False
        return True

    def notes(self, dropped: Iterable[int]) -> list[tuple[int, str]]:
        """Return what the trace has to say of steps that lost their tensors: from where on, what.

        Parameters
        ----------
        dropped
            Steps that ``retain`` keeps, and the limit does not.
        """
        steps = sorted(dropped)
        thinned = [step for step in steps if self._waits_for_nothing(step)]
        which = "no" if self.stride >= _NONE else f"every {ordinal(self.stride)}"
        messages = {
            f"from here on {which} step{self._named} keeps its tensors": thinned[:1],
            "the newest steps that 'retain' keeps have no room together; the last of them keep "
            "their tensors": [step for step in steps if step not in thinned][:1],
        }
        return [
            (step, f"{message}, because of {self._limit}")
            for message, first in messages.items()
            for step in first
        ]

    def _waits_for_nothing(self, step: int) -> bool:
        """Whether ``retain`` keeps the step however old it is."""
        if not self._only_newest:
            return True
        return self._every is not None and step % self._every == 0
