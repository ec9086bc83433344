"""How long traced steps took, and how long the training thread took to hand them over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_BEGINNING: Final = 2
"""Executions that count apart: steps are compiled and compared in them."""


@dataclass
class TimeSpent:
    """Adds up seconds; those of the first two executions apart, since they compile and compare."""

    executions: int = 0
    beginning_steps: int = 0
    beginning: float = 0.0
    steps: int = 0
    step_seconds: float = 0.0
    handing_over: float = 0.0

    def add(self, steps: int, step_seconds: float, handing_over: float) -> None:
        """Add one execution.

        Parameters
        ----------
        steps
            How many steps it did.
        step_seconds
            Seconds that the steps took, all together.
        handing_over
            Seconds that the training thread spent on them besides.
        """
        if self.executions < _BEGINNING:
            self.beginning_steps += steps
            self.beginning += step_seconds + handing_over
        else:
            self.steps += steps
            self.step_seconds += step_seconds
            self.handing_over += handing_over
        self.executions += 1

    def __str__(self) -> str:
        """Return what was spent, in one line."""
        first = "step" if self.beginning_steps == 1 else f"{self.beginning_steps} steps"
        text = f"the first {first} took {self.beginning:.1f} s"
        if not self.steps:
            return text
        each = self.step_seconds / self.steps * 1e3, self.handing_over / self.steps * 1e3
        return f"{text}, each other {each[0]:.1f} ms, and handing it over {each[1]:.1f} ms more"
