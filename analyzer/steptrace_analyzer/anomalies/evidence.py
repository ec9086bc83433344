"""What else was unusual at a step at which something jumped: gradient, update, learning rate."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.batches import UNUSUAL, input_change
from steptrace_analyzer.anomalies.measurements import Series, scalar
from steptrace_analyzer.anomalies.scores import WINDOW, log_sizes, trailing_scores
from steptrace_schema.names import BATCH_SIZE, LEARNING_RATE

if TYPE_CHECKING:
    from steptrace_analyzer.anomalies.signals import Signals

RATE_RATIO: Final = 1.5
"""A learning rate this many times its usual value, or as much below, has changed."""

_SIZE_FLOOR: Final = 1e-6  # a size of zero is scored as this part of the usual size


@dataclasses.dataclass(frozen=True)
class Change:
    """A size at a step against its own history before it."""

    value: float
    usual: float
    """Median of the history."""
    z: float
    """Robust z-score of the logarithm."""

    @property
    def ratio(self) -> float:
        """The size over its usual one."""
        return self.value / self.usual


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What else happened at the step of a jump; None where the trace does not say."""

    update: Change | None
    """Norm of the update of the tensor that jumped most."""
    gradient: Change | None
    """Norm of its gradient."""
    gradient_jumped: bool
    learning_rate: Change | None
    learning_rate_changed: bool


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """The series of a trace in which causes are looked for; None where it has none."""

    signals: Signals
    updates: Series | None
    gradients: Series | None
    learning_rate: Series | None
    batch_size: Series | None

    @classmethod
    def of(cls, signals: Signals, updates: Series | None, gradients: Series | None) -> Surroundings:
        """Read the series of a trace, but for the norms, which have been read already."""
        return cls(
            signals=signals,
            updates=updates,
            gradients=gradients,
            learning_rate=scalar(signals.trace, LEARNING_RATE),
            batch_size=scalar(signals.trace, BATCH_SIZE),
        )

    def changed_from_outside(self, step: int) -> bool:
        """Whether the batch or the learning rate of a step, which no weight influences, jumped."""
        inputs = input_change(self.signals, step)
        unusual = inputs is not None and abs(inputs.z) > UNUSUAL
        return unusual or _rate_changed(_size_change(self.learning_rate, step))

    def evidence(self, step: int, path: str) -> Evidence:
        """Return what else happened at `step`, at which the tensor at `path` jumped."""
        gradient = _size_change(self.gradients.of(path) if self.gradients else None, step)
        rate = _size_change(self.learning_rate, step)
        return Evidence(
            update=_size_change(self.updates.of(path) if self.updates else None, step),
            gradient=gradient,
            gradient_jumped=gradient is not None and gradient.z > UNUSUAL,
            learning_rate=rate,
            learning_rate_changed=_rate_changed(rate),
        )


def _rate_changed(rate: Change | None) -> bool:
    return rate is not None and not 1 / RATE_RATIO <= rate.ratio <= RATE_RATIO


def _size_change(series: Series | None, step: int) -> Change | None:
    """Score a size, as a logarithm."""
    history = _until(series, step)
    if history is None:
        return None
    scores = trailing_scores(log_sizes(history.values))
    usual, scale = float(np.exp(scores.median[-1, 0])), float(scores.scale[-1, 0])
    value = float(history.values[-1, 0])
    if not np.isfinite(usual) or not np.isfinite(value):
        return None
    z = np.log(max(value / usual, _SIZE_FLOOR)) / scale
    return Change(value, usual, float(z))


def _until(series: Series | None, step: int) -> Series | None:
    """Return the rows of a window that ends with `step`."""
    row = None if series is None else series.row(step)
    if series is None or row is None:
        return None
    rows = slice(max(0, row - WINDOW), row + 1)
    return Series(series.steps[rows], series.paths, series.values[rows])
