"""What came of a training: whether it learned, got worse, or solved its task."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.finding import NotJudgedError

if TYPE_CHECKING:
    from steptrace_analyzer.anomalies.signals import Signals

_TAIL: Final = 20  # steps that a run's end is judged by
_HEAD: Final = 5
_WORSE: Final = 1.5  # of the least median: from here on a loss has got worse
_UNCHANGED: Final = 0.97  # of the first loss: above it nothing was learned


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The loss of a run in three numbers."""

    first: float
    """Median of the first losses."""
    best: float
    """Least median of 20 steps in a row."""
    last: float
    """Median of the last 20 losses; infinite where one of them is not finite."""

    @property
    def got_worse(self) -> bool:
        """Whether the loss ends well above what it had reached."""
        return self.last > _WORSE * self.best and self.last - self.best > 0.02 * abs(self.first)

    @property
    def learned_nothing(self) -> bool:
        """Whether the loss ends where it began."""
        return self.last > _UNCHANGED * self.first


def outcome(signals: Signals) -> Outcome | None:
    """Return what came of a run, None where it is too short or has no one loss."""
    try:
        values = signals.loss.values[:, 0]
    except NotJudgedError:
        return None
    if len(values) < 2 * _TAIL or signals.several_models:
        return None
    clean = np.where(np.isfinite(values), values, np.inf)
    medians = np.median(np.lib.stride_tricks.sliding_window_view(clean, _TAIL), axis=-1)
    return Outcome(float(np.median(clean[:_HEAD])), float(medians.min()), float(medians[-1]))


def is_harmed(signals: Signals) -> bool:
    """Whether the run got worse, or learned nothing: gate of what is an error by its outcome."""
    found = outcome(signals)
    return found is not None and (found.got_worse or found.learned_nothing)
