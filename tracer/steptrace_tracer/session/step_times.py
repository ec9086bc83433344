"""What recording costs, from the times of steps that are recorded and of others."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Final

_LONGEST: Final = 3.0
"""Times of the median, to which longer times are cut: what checkpoints and pauses take."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Steps in a row, of which all executions are recorded, or none.

    Attributes
    ----------
    steps
        How many there are.
    recorded
        How many of them have a record.
    seconds
        How long they took, with all that the training does between them.
    is_idle
        Whether the recorder had nothing to move when they began.
    """

    steps: int
    recorded: int
    seconds: float
    is_idle: bool = True


@dataclasses.dataclass(frozen=True)
class Cost:
    """What recording costs.

    Attributes
    ----------
    step_seconds
        Time of a step that is not recorded.
    record_seconds
        What a recorded step adds, in the training's thread and by what the recorder takes from it.
    """

    step_seconds: float
    record_seconds: float

    def slowdown(self, every: int) -> float:
        """Return how much longer a training takes of which one step in `every` is recorded.

        Examples
        --------
        >>> Cost(step_seconds=0.5, record_seconds=1.0).slowdown(20)
        0.1
        """
        return max(0.0, self.record_seconds) / (self.step_seconds * every)


class StepTimes:
    """Times of blocks, one after the other.

    Attributes
    ----------
    steps
        How many steps there are.
    recorded, unrecorded
        How many of the blocks are recorded, and how many are not.
    """

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self.steps = self.recorded = self.unrecorded = 0

    def add(self, block: Block) -> None:
        """Take one more block."""
        self._blocks.append(block)
        self.steps += block.steps
        self.recorded += block.recorded > 0
        self.unrecorded += block.recorded == 0

    def step_seconds(self, *, idle: bool = True) -> float | None:
        """Return the time of a step without a record; with `idle`, while the recorder rests.

        None where there is no such step.
        """
        wanted = [b for b in self._blocks if b.recorded == 0 and (b.is_idle or not idle)]
        if not wanted:
            return None
        return _seconds(wanted) / sum(block.steps for block in wanted)

    def cost(self, step_seconds: float) -> Cost:
        """Return what recording has cost, where a step without a record takes `step_seconds`."""
        recorded = [block for block in self._blocks if block.recorded]
        others = [block for block in self._blocks if not block.recorded]
        seconds = sum(_seconds(blocks) for blocks in (recorded, others) if blocks)
        records = sum(block.recorded for block in self._blocks)
        return Cost(step_seconds, (seconds - step_seconds * self.steps) / max(1, records))


def _seconds(blocks: list[Block]) -> float:
    """Return the time of blocks of one sort, without what happened to few of them."""
    longest = _LONGEST * statistics.median(block.seconds / block.steps for block in blocks)
    return sum(min(block.seconds, longest * block.steps) for block in blocks)
