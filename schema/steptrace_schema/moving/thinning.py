"""Which steps keep their tensors within the disk limit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from steptrace_schema.format.retention import RetainLast
from steptrace_schema.human import ordinal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from steptrace_schema.format.disk_limit import DiskLimit
    from steptrace_schema.format.retention import Retain


_LEFT: Final = 0.75
"""What is left of the room for tensors when the stride doubles."""


_NONE: Final = 2**16
"""A stride at which no step keeps its tensors."""


def stride_for(room: int, left: int) -> int:
    """Return of how many steps one keeps its tensors, a power of two.

    It doubles each time that a quarter of the remaining room has been used: the longer a run is,
    the fewer steps keep their tensors, at growing distances.

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
        """Keep less; return False if nothing is left to drop."""
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
            "there is no room for all of the newest steps that 'retain' keeps; only the last of "
            "them keep their tensors": [step for step in steps if step not in thinned][:1],
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
