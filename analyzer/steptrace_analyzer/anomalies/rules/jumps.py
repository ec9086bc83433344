"""Updates and gradients that are far larger than their own history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from steptrace_analyzer.anomalies.causes import cause_of_jump
from steptrace_analyzer.anomalies.finding import Finding
from steptrace_analyzer.anomalies.jumps_of import jumps_of
from steptrace_analyzer.anomalies.outcome import is_harmed
from steptrace_analyzer.anomalies.resumed import resumed_at
from steptrace_analyzer.anomalies.words import number, plural, times

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_analyzer.anomalies.jumps import Jump
    from steptrace_analyzer.anomalies.signals import Signals
    from steptrace_schema.names import Kind

_OVERWRITTEN: Final = "what the weights had learned is overwritten in part"


def update_jump(signals: Signals, *, z: float = 8.0) -> Iterator[Finding]:
    """Find steps whose update of a weight is far larger than its own history.

    The score is the robust z of the logarithm of the update's L2 norm against the 50 recorded
    updates before it: (value - median) / max(1.4826 MAD, 0.2), so that a z of 8 is at least 5
    times. A smaller batch has a noisier gradient; half the logarithm of how much smaller it is, is
    taken off. A jump and its after-effects are one finding. What caused it is looked for in the
    learning rate, in the weights (a change that the optimizer did not make), in the batch's
    inputs, in the losses of its samples, and in the gradient.

    Thresholds
        z: spreads of the logarithm, without unit
    Unit
        L2 norm of the update
    Needs
        statistics of updates, or weights at consecutive steps
    Source
        Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993.
    """
    yield from (
        _finding(signals, jump, "update_jump", z)
        for jump in jumps_of(signals, z)
        if jump.kind == "jump"
    )


def gradient_jump(signals: Signals, *, z: float = 8.0) -> Iterator[Finding]:
    """Find steps whose gradient is far larger than its own history, where the update is not.

    An adaptive optimizer divides by the size of the gradient, and clipping cuts it, so that the
    weights hardly show what happened. Scored as in `update_jump`.

    Thresholds
        z: spreads of the logarithm, without unit
    Unit
        L2 norm of the gradient
    Needs
        statistics of gradients, or their values
    Source
        Iglewicz and Hoaglin, 1993; 6 spreads of 128 norms: OLMo-core,
        `optim/skip_step_optimizer.py`.
    """
    yield from (
        _finding(signals, jump, "gradient_jump", z)
        for jump in jumps_of(signals, z)
        if jump.kind == "gradient"
    )


def _finding(signals: Signals, jump: Jump, rule: str, z: float) -> Finding:
    top, *rest = jump.tensors
    kind: Kind = "updates" if jump.kind == "jump" else "gradients"
    earlier = [j for j in jumps_of(signals, z) if j.kind == "jump" and j.step < jump.step]
    cause = cause_of_jump(signals, jump, earlier)
    noun = "update" if jump.kind == "jump" else "gradient"
    text = (
        f"at step {jump.step} the {noun} of {top.path} was {times(top.ratio)} its usual size "
        f"({number(top.norm)} instead of {number(top.usual)})"
    )
    if jump.units:
        text += f", most in {jump.unit_noun} {jump.units[0].index}"
    if rest:
        text += f", and {plural(len(rest), 'other tensor')} jumped with it"
    gradient = jump.evidence.gradient
    if jump.kind == "jump" and gradient is not None and jump.evidence.gradient_jumped:
        text += f"; its gradient was {times(gradient.ratio)} as large as usual"
    update = jump.evidence.update
    damped = jump.kind == "gradient" and update is not None
    if damped and update is not None:
        text += f"; the optimizer damped it: the update was {times(update.ratio)} its usual size"
    last = jump.step
    if jump.duration > 1:
        steps = signals.norms(kind).steps.tolist()
        last = int(steps[min(steps.index(jump.step) + jump.duration, len(steps)) - 1])
        text += f"; it stayed unusually large for {jump.duration} steps"
    intended = cause.kind == "set-up"
    meets = resumed_at(signals, jump.step + 1)  # what the run came to says nothing of that
    harmed = jump.kind == "jump" and not (intended or meets) and is_harmed(signals)
    return Finding(
        rule=rule,
        severity="error" if harmed else "info" if damped or intended else "warning",
        first_step=jump.step,
        last_step=last,
        explanation=f"{text}. Cause: {cause.text}.",
        tensor=f"{kind}/{top.path}",
        unit=jump.units[0].index if jump.units else None,
        observed=top.norm,
        usual=top.usual,
        threshold=z,
        cause=cause.text,
        cause_kind=cause.kind,
        consequence="" if damped or intended else _OVERWRITTEN,
        remedy=cause.remedy,
        evidence={
            "z": top.z,
            "ratio": top.ratio,
            "units": [unit.index for unit in jump.units],
            "gradient_ratio": gradient.ratio if gradient is not None else None,
        },
        others=tuple(f"{kind}/{tensor.path}" for tensor in rest),
    )
