"""How often a step is recorded, so that the training is not slowed down by more than is allowed.

At first every second execution is recorded, and the times of both sorts of steps are compared. The
interval that follows from that is kept for as long as the times agree with it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from steptrace_schema.format.attributes import Interval
from steptrace_tracer.session.step_times import Cost, StepTimes

if TYPE_CHECKING:
    from steptrace_tracer.session.step_times import Block

FACTORS: Final[tuple[int, ...]] = tuple(
    base * 10**power for power in range(5) for base in (1, 2, 5)
)
"""Intervals, as multiples of the smallest one."""
MEASURED: Final = 8
"""So many blocks of either sort are measured."""
WARM_UP: Final = 2
"""So many of either sort are not counted before: they compile, and compare."""
_RECORDED: Final = 16
_SHORTEST: Final = 64
_LONGEST: Final = 8192
"""Records, and steps, after which it is asked whether the interval is right: ever more steps."""
_AGAIN: Final = 1024
"""Steps until the steps without a record are measured again where all are recorded; doubles."""
_EASILY: Final = 0.5
"""The part of what is allowed that a smaller interval has to stay within; halved each time that it
did not keep its promise."""


def fitting_interval(cost: Cost, max_slowdown: float, least: int = 1) -> int:
    """Return the smallest interval, of at least `least`, that costs no more than `max_slowdown`.

    Examples
    --------
    >>> fitting_interval(Cost(step_seconds=0.01, record_seconds=0.004), max_slowdown=0.1)
    5
    """
    intervals = [least * factor for factor in FACTORS]
    return next((n for n in intervals if cost.slowdown(n) <= max_slowdown), intervals[-1])


class AutoInterval:
    """Finds an interval, and another one where it proves wrong.

    Parameters
    ----------
    max_slowdown
        How much longer the training may take, as a part of its time.
    least
        The smallest interval.

    Attributes
    ----------
    every
        The present interval.
    changes
        Since when which interval was kept, and why.
    """

    def __init__(self, max_slowdown: float, least: int) -> None:
        self._max = max_slowdown
        self._wanted = self._least = least
        self.every = least
        self.changes: tuple[Interval, ...] = ()
        self._measures = True
        self._times = StepTimes()
        self._suspected: StepTimes | None = None
        self._warm_up = Counter[bool]()
        self._step_seconds = 0.0
        self._length = _SHORTEST
        self._again = _AGAIN
        self._since = 0
        self._failed = Counter[int]()

    def begin(self, step: int, count: int, earlier: tuple[Interval, ...] = ()) -> None:
        """Note that a recording begins with `step`, whose first steps are compiled.

        Parameters
        ----------
        step
            Number of the step.
        count
            Steps of an execution, which are recorded all or not at all.
        earlier
            The intervals of the trace that is resumed.
        """
        self._warm_up = Counter({True: WARM_UP, False: WARM_UP})
        self.changes = tuple(change for change in earlier if change.step < step)
        least = max(self._wanted, count)
        if self._measures or least != self._least:
            self._least = least
            self._measure(step, "a step with a record and one without are compared")
        else:
            self._set(step, self.every, "the training continues")

    def take(self, block: Block, step: int) -> None:
        """Note how long steps took, and decide which are recorded from number `step` on."""
        is_recorded = block.recorded > 0
        if self._warm_up[is_recorded] > 0:
            self._warm_up[is_recorded] -= 1
            return
        self._times.add(block)
        if self._measures:
            if min(self._times.recorded, self._times.unrecorded) >= MEASURED:
                self._conclude(step)
        elif self._times.recorded >= _RECORDED and self._times.steps >= self._length:
            self._review(step)

    def _measure(self, step: int, reason: str) -> None:
        self._measures, self._times, self._since = True, StepTimes(), 0
        self._set(step, 2 * self._least, reason)

    def _conclude(self, step: int) -> None:
        """Choose by what was measured, and by what seemed to be too slow before."""
        times, suspected = self._times, self._suspected
        self._measures, self._times, self._suspected = False, StepTimes(), None
        self._step_seconds = times.step_seconds() or times.step_seconds(idle=False) or 0.0
        costs = [times.cost(self._step_seconds)]
        if suspected is not None:
            costs.append(suspected.cost(self._step_seconds))
        self._choose(step, max(costs, key=lambda cost: cost.record_seconds))

    def _choose(self, step: int, cost: Cost) -> None:
        """Take the smallest interval that keeps what is allowed at this cost."""
        self._set(step, fitting_interval(cost, self._max, self._least), _costs(cost), cost)

    def _review(self, step: int) -> None:
        """Ask whether the interval is right."""
        times, self._times = self._times, StepTimes()
        self._since += times.steps
        self._length = min(2 * self._length, _LONGEST)
        present = times.step_seconds()
        if present is None and times.unrecorded:
            self._failed[self.every] += 1
            self._set(step, self._beside(1), "the recorder did not keep up with the training")
            return
        cost = times.cost(present or self._step_seconds)
        is_slow = cost.slowdown(self.every) > self._max
        if present is None:
            # How long a step takes without a record may have changed since it was measured.
            if is_slow or self._since >= self._again:
                self._again *= 1 if is_slow else 2
                self._suspected = times
                self._measure(step, "a step without a record is measured again")
            return
        self._step_seconds = present
        if is_slow:
            self._failed[self.every] += 1
            self._choose(step, cost)
            return
        smaller = self._beside(-1)
        easily = self._max * _EASILY / 2 ** self._failed[smaller]
        if smaller < self.every and cost.slowdown(smaller) <= easily:
            self._set(step, smaller, _costs(cost), cost)

    def _beside(self, places: int) -> int:
        """Return the interval that is so many places after the present one, or the last one."""
        intervals = [self._least * factor for factor in FACTORS]
        place = intervals.index(self.every) + places
        return intervals[min(max(place, 0), len(intervals) - 1)]

    def _set(self, step: int, every: int, reason: str, cost: Cost | None = None) -> None:
        if self.every != every:
            self._length = _SHORTEST
        self.every = every
        latest = self.changes[-1] if self.changes else None
        if latest is not None and latest.every == every:
            if cost is None or latest.step_seconds is not None:
                return  # which the trace says already
        change = Interval(step=step, every=every, reason=reason)
        if cost is not None:
            update = {
                "step_seconds": _rounded(cost.step_seconds),
                "record_seconds": _rounded(max(0.0, cost.record_seconds)),
            }
            change = change.model_copy(update=update)
        self.changes = (*self.changes, change)


def _costs(cost: Cost) -> str:
    return (
        f"a record adds {max(0.0, cost.record_seconds) * 1e3:.3g} ms to steps of "
        f"{cost.step_seconds * 1e3:.3g} ms"
    )


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.4g}")
