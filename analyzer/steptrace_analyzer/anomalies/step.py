"""What happened at one step."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_analyzer.anomalies.batches import input_change, loss_change
from steptrace_analyzer.anomalies.diagnosis import diagnose
from steptrace_analyzer.anomalies.explain import explain_update
from steptrace_analyzer.anomalies.finding import NotJudgedError
from steptrace_analyzer.anomalies.samples.gradient_shares import explain_gradient
from steptrace_analyzer.anomalies.signals import Signals
from steptrace_analyzer.anomalies.trends import known_median, recent_median
from steptrace_analyzer.anomalies.words import number, times
from steptrace_analyzer.trace.select import resolve_step, resolve_tensor
from steptrace_schema.errors import StepNotRecordedError

if TYPE_CHECKING:
    import xarray as xr

    from steptrace_analyzer.anomalies.explain import UpdateExplanation
    from steptrace_analyzer.anomalies.finding import Finding
    from steptrace_analyzer.anomalies.samples.gradient_shares import GradientShares


@dataclasses.dataclass(frozen=True)
class StepExplanation:
    """What is known of one step."""

    step: int
    summary: str
    """The loss and the batch, beside what they usually are."""
    findings: tuple[Finding, ...]
    """What rules found that holds at the step."""
    updates: tuple[UpdateExplanation, ...]
    """Why weights changed, the largest change for its usual size first."""
    gradients: tuple[GradientShares, ...] = ()
    """Which samples made the gradient, of the weight that was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "step": self.step,
            "summary": self.summary,
            "findings": [finding.to_dict() for finding in self.findings],
            "updates": [update.to_dict() for update in self.updates],
            "gradients": [gradient.to_dict() for gradient in self.gradients],
        }


def explain_step(trace: xr.DataTree, step: int, tensor: str | None = None) -> StepExplanation:
    """Say what happened at a step.

    Parameters
    ----------
    trace
        What :func:`steptrace_analyzer.open_trace` returns.
    step
        The step; a negative one counts from the end.
    tensor
        The weight whose update is explained, and whose gradient is divided among the samples; those
        with a gradient, where None.

    Raises
    ------
    StepNotRecordedError
        If the step is not recorded.
    UnknownNameError
        If there is no such weight.

    Examples
    --------
    >>> print(explain_step(open_trace("run.zarr"), 60).summary)  # doctest: +SKIP
    """
    if "scalars" not in trace.children:
        msg = (
            f"{trace.name or 'the trace'} holds no step {step}, nor any other; nothing is recorded"
        )
        raise StepNotRecordedError(msg)
    step = resolve_step(trace["scalars"], step)
    signals = Signals(trace)
    if tensor is None:
        paths = _largest_first(signals, step)
    else:
        paths = [resolve_tensor(trace, "weights", tensor)]
    updates = tuple(explain_update(trace, step, path) for path in paths)
    shares = () if tensor is None else (explain_gradient(trace, step, paths[0]),)
    found = diagnose(trace, first=step, last=step).findings
    return StepExplanation(step, _summary(signals, step), found, updates, shares)


def _largest_first(signals: Signals, step: int) -> list[str]:
    """Return the trainable weights, those first that moved farthest for their usual step."""
    paths = [path for path in signals.paths("gradients") if signals.has("weights", path)]
    try:
        norms = signals.norms("updates")
    except NotJudgedError:
        return paths
    row = norms.row(step)
    if row is None:
        return paths
    usual = np.array([known_median(column) for column in norms.values.T])
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = dict(zip(norms.paths, np.nan_to_num(norms.values[row] / usual), strict=True))
    return sorted(paths, key=lambda path: -ratio.get(path, 0.0))


def _summary(signals: Signals, step: int) -> str:
    loss = signals.loss
    row = loss.row(step)
    assert row is not None
    values = loss.values[:, 0]
    usual = recent_median(values[: row + 1], 5)[row]
    parts = [f"loss {number(values[row])}"]
    if np.isfinite(usual):
        parts[0] += f" (of the 5 steps before {number(usual)})"
    rate = signals.learning_rate.row(step)
    if rate is not None:
        parts.append(f"learning rate {number(float(signals.learning_rate.values[rate, 0]))}")
    inputs = input_change(signals, step)
    if inputs is not None and inputs.usual and inputs.quantity == "size":
        parts.append(f"inputs {times(inputs.value / inputs.usual)} as large as usual")
    losses = loss_change(signals, step)
    if losses is not None:
        parts.append(
            f"{losses.high} of {losses.samples} samples with a loss above nine tenths of those "
            "before"
        )
        if losses.seen_loss is not None:
            parts.append(
                f"{losses.seen} of them seen before, then with a median loss of "
                f"{number(losses.seen_loss)}, now {number(losses.median)}"
            )
    return "; ".join(parts)
