"""What else was unusual at a step: gradient, learning rate, loss and batch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, get_args

import numpy as np

from steptrace_analyzer.anomalies.findings import (
    Cause,
    Change,
    Evidence,
    InputChange,
    InputProperty,
)
from steptrace_analyzer.anomalies.measurements import Series, norms, scalar
from steptrace_analyzer.anomalies.scores import WINDOW, log_sizes, trailing_scores
from steptrace_analyzer.anomalies.whole_batch import input_statistic
from steptrace_analyzer.trace.batch import is_target, measured_arrays
from steptrace_analyzer.trace.select import get_tensor, recorded_steps, tensor_paths
from steptrace_schema.names import BATCH_SIZE, LEARNING_RATE, LOSS, SAMPLE_DIGEST, STEP

if TYPE_CHECKING:
    import xarray as xr

EVIDENCE_Z: Final = 5.0
"""From this score on, something that happened together with a jump is called unusual."""
RATE_RATIO: Final = 1.5
"""A learning rate this many times its usual value, or as much below, has changed."""

_MEAN_FLOOR: Final = 0.1  # of the usual spread: how far a batch's mean may wander unnoticed
_LOSS_FLOOR: Final = 0.1  # of the usual loss
_SIZE_FLOOR: Final = 1e-6  # a size of zero is scored as this part of the usual size


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """The series of a trace in which causes are looked for; None where it has none."""

    trace: xr.DataTree
    updates: Series | None
    gradients: Series | None
    learning_rate: Series | None
    loss: Series | None
    batch_size: Series | None
    input_means: Series | None
    input_stds: Series | None
    measured: tuple[str, ...]
    """The inputs and targets whose numbers are magnitudes."""

    @classmethod
    def of(
        cls,
        trace: xr.DataTree,
        updates: Series | None = None,
        gradients: Series | None = None,
    ) -> Surroundings:
        """Read the series of a trace, but for the norms that have been read already."""
        return cls(
            trace=trace,
            updates=norms(trace, "updates") if updates is None else updates,
            gradients=norms(trace, "gradients") if gradients is None else gradients,
            learning_rate=scalar(trace, LEARNING_RATE),
            loss=scalar(trace, LOSS),
            batch_size=scalar(trace, BATCH_SIZE),
            input_means=input_statistic(trace, "mean"),
            input_stds=input_statistic(trace, "std"),
            measured=measured_arrays(trace),
        )

    def changed_from_outside(self, step: int) -> bool:
        """Whether the batch or the learning rate of a step, which no weight influences, jumped."""
        inputs = self.input_change(step)
        rate = _size_change(self.learning_rate, step)
        return (inputs is not None and abs(inputs.change.z) > EVIDENCE_Z) or _rate_changed(rate)

    def evidence(self, step: int, path: str) -> Evidence:
        """Return what else happened at `step`, at which the tensor at `path` jumped."""
        update = _size_change(self.updates.of(path) if self.updates else None, step)
        gradient = _size_change(self.gradients.of(path) if self.gradients else None, step)
        rate = _size_change(self.learning_rate, step)
        loss = _value_change(self.loss, step, _LOSS_FLOOR)
        inputs = self.input_change(step)
        batch_size = _size_change(self.batch_size, step)
        return Evidence(
            update=update,
            gradient=gradient,
            gradient_jumped=gradient is not None and gradient.z > EVIDENCE_Z,
            learning_rate=rate,
            learning_rate_changed=_rate_changed(rate),
            loss=loss,
            loss_jumped=loss is not None and loss.z > EVIDENCE_Z,
            inputs=inputs,
            inputs_changed=inputs is not None and abs(inputs.change.z) > EVIDENCE_Z,
            batch_size=batch_size,
            batch_size_changed=batch_size is not None and batch_size.z < -EVIDENCE_Z,
            repeated=self.repeated_share(step),
        )

    def input_change(self, step: int) -> InputChange | None:
        """Return what is unusual about the batch's recorded rows, or else its likeliest property.

        A size says more than a spread, and that more than a mean, where all are unusual; and an
        input says more than a target. Class ids and token ids are not looked at.
        """
        if self.input_means is None or self.input_stds is None:
            return None
        found: list[InputChange] = []
        for name in self.measured:
            mean, std = self.input_means.of(name), self.input_stds.of(name)
            if mean is None or std is None:
                continue
            size = Series(mean.steps, (name,), np.hypot(mean.values, std.values))
            spread = _size_change(std, step)
            floor = _MEAN_FLOOR * spread.usual if spread is not None else 0.0
            changes: dict[InputProperty, Change | None] = {
                "size": _size_change(size, step),
                "spread": spread,
                "mean": _value_change(mean, step, 0.0, least=floor),
            }
            found += [
                InputChange(name, property_, change)
                for property_, change in changes.items()
                if change is not None
            ]
        unusual = [each for each in found if abs(each.change.z) > EVIDENCE_Z]
        if unusual:
            return min(unusual, key=_telling)
        return max(found, key=lambda each: abs(each.change.z), default=None)

    def repeated_share(self, step: int) -> float | None:
        """Return the share of the batch's rows that are copies of another of its rows."""
        if SAMPLE_DIGEST not in tensor_paths(self.trace, "inputs"):
            return None
        digests = get_tensor(self.trace, "inputs", SAMPLE_DIGEST)
        if step not in recorded_steps(digests):
            return None
        row = np.asarray(digests.sel({STEP: step}))
        size = self.batch_size.row(step) if self.batch_size else None
        if self.batch_size is not None and size is not None:
            row = row[: int(self.batch_size.values[size, 0])]
        return 1 - len(np.unique(row)) / len(row) if len(row) else None


def cause_of_jump(evidence: Evidence, z: float, scale: float, threshold: float) -> Cause:
    """Name what best explains a jump of the parameters.

    Parameters
    ----------
    evidence
        What else happened.
    z, scale
        Score of the jump, and the spread of the logarithm it was computed with.
    threshold
        Score from which on an update is a jump.
    """
    rate = evidence.learning_rate
    if rate is not None and evidence.learning_rate_changed and rate.ratio:
        # An update scales with the learning rate; is it still a jump without that part?
        if z - np.log(rate.ratio) / scale <= threshold:
            return "learning_rate"
    if evidence.inputs_changed or evidence.batch_size_changed:
        return "batch"
    return "gradient" if evidence.gradient_jumped else "unexplained"


def cause_of_spike(evidence: Evidence) -> Cause:
    """Name what best explains a gradient that jumped by itself."""
    return "batch" if evidence.inputs_changed or evidence.batch_size_changed else "unexplained"


def _telling(each: InputChange) -> tuple[bool, int, float]:
    """Return a sort key: a smaller one says more about the batch."""
    return (
        is_target(each.tensor),
        get_args(InputProperty).index(each.property),
        -abs(each.change.z),
    )


def _rate_changed(rate: Change | None) -> bool:
    return (
        rate is not None
        and rate.ratio is not None
        and not 1 / RATE_RATIO <= rate.ratio <= RATE_RATIO
    )


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
    return Change(value, usual, float(z), ratio=value / usual)


def _value_change(
    series: Series | None, step: int, floor: float, least: float = 0.0
) -> Change | None:
    """Score a value that may be negative; the spread is at least `floor` times it, and `least`."""
    history = _until(series, step)
    if history is None:
        return None
    finite = np.where(np.isfinite(history.values), history.values, np.nan)
    scores = trailing_scores(finite, floor=np.finfo(np.float64).tiny)
    usual = float(scores.median[-1, 0])
    value = float(history.values[-1, 0])
    if not np.isfinite(usual) or not np.isfinite(value):
        return None
    scale = max(float(scores.scale[-1, 0]), floor * abs(usual), least)
    return Change(value, usual, (value - usual) / scale)


def _until(series: Series | None, step: int) -> Series | None:
    """Return the rows of a window that ends with `step`."""
    row = None if series is None else series.row(step)
    if series is None or row is None:
        return None
    rows = slice(max(0, row - WINDOW), row + 1)
    return Series(series.steps[rows], series.paths, series.values[rows])
