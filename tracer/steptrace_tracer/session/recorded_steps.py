"""Which steps are recorded: as the policy says, or as often as their cost allows."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Final

from steptrace_schema.format.attributes import Interval
from steptrace_tracer.session.auto_interval import AutoInterval
from steptrace_tracer.session.step_times import Block

if TYPE_CHECKING:
    from collections.abc import Callable

    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.capture.traced_step import TracedStep
    from steptrace_tracer.record.recording import Recording

_SHORT_EPOCH: Final = 4
"""Executions of an epoch, from which on what happens between two epochs is not counted."""


@dataclasses.dataclass
class _Present:
    """Executions in a row that are all recorded, or none of them, as far as they have begun."""

    first: int
    epoch: int
    recorded: int
    begin: float
    is_idle: bool


class RecordedSteps:
    """Says which steps are recorded, and remembers what it said before.

    It lasts as long as its tracer.

    Parameters
    ----------
    policy
        What is recorded, and when.
    clock
        Seconds that pass.
    """

    def __init__(self, policy: Policy, clock: Callable[[], float] = time.perf_counter) -> None:
        self._policy = policy
        self._clock = clock
        self._auto: AutoInterval | None = None
        if policy.max_slowdown is not None:
            self._auto = AutoInterval(policy.max_slowdown, policy.every)
        self._count = 1
        self._present: _Present | None = None
        self._latest = (-1, 0.0)
        self._executions = 0
        self._changes: tuple[Interval, ...] = ()

    def news(self) -> dict[str, tuple[Interval, ...]]:
        """Return the root attribute that says since when which interval is kept, and why."""
        return {"intervals": self._changes if self._auto is None else self._auto.changes}

    def records(self, step: int, epoch: int) -> bool:
        """Whether a step that has begun is recorded."""
        every = None if self._auto is None else self._auto.every
        return self._policy.records_step(step, epoch, every)

    def begin(self, step: int, earlier: tuple[Interval, ...] = ()) -> None:
        """Note that a recording begins with `step`; it may resume one with `earlier` intervals."""
        self._present = None
        if self._auto is not None:
            self._auto.begin(step, self._count, earlier)
            return
        self._changes = tuple(change for change in earlier if change.step < step)
        if self._changes:
            own = Interval(step=step, every=self._policy.every, reason="the policy says so")
            self._changes = (*self._changes, own)

    def turn(
        self,
        first: int,
        epoch: int,
        count: int,
        traced: TracedStep | None,
        recording: Recording | None,
    ) -> bool:
        """Note that an execution begins, and return whether any of its steps is recorded.

        Parameters
        ----------
        first, epoch
            Number and epoch of its first step.
        count
            How many steps it has.
        traced
            Its program waits until the steps before are done, where a device does them by itself.
        recording
            Knows whether the recorder has something to move; both are None before the first step.
        """
        self._count = count
        if self._auto is not None and first != self._latest[0]:
            self._time(self._auto, first, epoch, count, traced, recording)
        return self._recorded(first, epoch, count) > 0

    def _recorded(self, first: int, epoch: int, count: int) -> int:
        return sum(self.records(step, epoch) for step in range(first, first + count))

    def _time(
        self,
        auto: AutoInterval,
        first: int,
        epoch: int,
        count: int,
        traced: TracedStep | None,
        recording: Recording | None,
    ) -> None:
        """Measure the executions before this one, where it is of another sort than they are."""
        present, recorded = self._present, self._recorded(first, epoch, count)
        if present is not None and not present.recorded and not recorded and epoch == present.epoch:
            self._executions += 1
            self._latest = first, self._clock()
            return
        if traced is not None and present is not None and not present.recorded:
            traced.program.wait()
        now = self._clock()
        if present is not None:
            end, seconds = first, now - present.begin
            if epoch != present.epoch:
                if self._executions >= _SHORT_EPOCH:
                    # With the last step of an epoch comes what is done between two epochs.
                    end, seconds = self._latest[0], self._latest[1] - present.begin
                self._executions = 0
            if end > present.first:
                steps = end - present.first
                auto.take(Block(steps, present.recorded, seconds, present.is_idle), first)
                recorded = self._recorded(first, epoch, count)
        is_idle = recorded > 0 or recording is None or not recording.is_moving()
        self._executions += 1
        self._present = _Present(first, epoch, recorded, now, is_idle)
        self._latest = first, now
