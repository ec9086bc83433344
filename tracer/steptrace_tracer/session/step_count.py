"""Counting the steps of a custom training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steptrace_tracer.session.collect_step import StepPosition

if TYPE_CHECKING:
    from collections.abc import Callable


class StepCount:
    """Numbers steps, and the batches of each epoch.

    Parameters
    ----------
    epoch
        Returns the present epoch.

    Attributes
    ----------
    first
        Number of the first step.
    """

    def __init__(self, epoch: Callable[[], int]) -> None:
        self._epoch = epoch
        self.first = 0
        self._done = 0
        self._batches = (0, 0)

    @property
    def epoch(self) -> int:
        """The present epoch."""
        return self._epoch()

    @property
    def next(self) -> int:
        """The number of the step to come."""
        return self.first + self._done

    @property
    def last(self) -> int | None:
        """The number of the last step, None before the first."""
        return self.next - 1 if self._done else None

    def take(self) -> StepPosition:
        """Return where the step stands that is done now, and count it."""
        epoch, batch = self._epoch(), 0
        if self._batches[0] == epoch:
            batch = self._batches[1]
        self._batches = (epoch, batch + 1)
        position = StepPosition(self.next, epoch, batch)
        self._done += 1
        return position
