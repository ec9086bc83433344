"""Runs that learn nothing, or unlearn what they had learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.finding import NOT_KNOWN, Finding, NotJudgedError
from steptrace_analyzer.anomalies.outcome import LEAST_STEPS, TAIL, UNLEARNED, outcome, task_losses
from steptrace_analyzer.anomalies.signals import require
from steptrace_analyzer.anomalies.trends import mann_kendall
from steptrace_analyzer.anomalies.words import number, plural, times

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_analyzer.anomalies.outcome import Outcome
    from steptrace_analyzer.anomalies.signals import Signals

_RAISED: Final = 3.0  # times as large: a rate that explains that a loss rises


def not_learning(signals: Signals, *, share: float = UNLEARNED) -> Iterator[Finding]:
    """Find runs whose loss ends no better than that of the best constant prediction.

    The best constant prediction is computed from the recorded targets: entropy of the classes,
    variance, mean absolute deviation and so on, of several outputs their weighted sum. Where that
    is not known, the loss before the first update stands for it. Penalties are left out where the
    losses of single samples are recorded. Losses that are not 0 where every prediction is right are
    measured from there. Judged is the mean of the last tenth of the run, in runs of 100 steps or
    more. It is above `share` of that loss in runs which never came below nine tenths of it for a
    fifth of the run, or above all of it in others, which have lost what they had learned. Where the
    targets of all samples are known, each part of the run is measured by the loss that the constant
    prediction has on the same batches: some are harder than others. It is an error, unless the run
    is only slow: the second half has a downward trend (Mann-Kendall over 20 means, p < 0.05), at
    which the loss would be lower than that in as many steps again. Then it is a warning.

    Thresholds
        share: loss at the end over that of the constant prediction
    Unit
        of the loss
    Needs
        scalars/loss; inputs/y for the constant prediction
    Source
        trivial predictor: UMLAUT, TheDeepChecker; Mann, Econometrica 13, 1945
    """
    found = _judged(signals)
    least = found.level if found.unlearned else found.at(share)
    if not (found.learned_nothing or found.unlearned) or not found.end > least:
        return
    what = (
        f"the {number(found.trivial)} of the best constant prediction"
        if found.trivial is not None
        else f"the {number(found.first)} before the first update"
    )
    ending = "is not finite" if not np.isfinite(found.end) else f"is {number(found.end)}"
    slow = found.falling and found.ahead < least
    trend = ", and does not fall fast enough to get there in as many steps again"
    trend = "; it still falls" if slow else trend if found.falling else ""
    course = f"nothing was learned in {plural(found.steps, 'step')}"
    if found.unlearned:
        course = f"what was learned by step {found.best_step} is lost"
    steps, _ = task_losses(signals)
    yield Finding(
        rule="not_learning",
        severity="warning" if slow else "error",
        first_step=found.best_step if found.unlearned else int(steps[0]),
        last_step=int(steps[-1]),
        explanation=(
            f"{course}: the loss of the last steps {ending}, no better than {what}{trend}."
        ),
        tensor="scalars/loss",
        observed=found.end,
        usual=found.level,
        threshold=least,
        consequence="the model predicts no better than a constant",
        remedy=(
            "look at the other findings first; then check that inputs and labels belong together, "
            "and that a batch of 16 samples can be learned by heart (TheDeepChecker)"
        ),
        evidence={"trivial_loss": found.trivial, "first_loss": found.first},
    )


def diverging(signals: Signals, *, ratio: float = 2.0, steps: float = 50) -> Iterator[Finding]:
    """Find runs whose loss leaves what it had reached and stays above it.

    The median of 20 steps has been `ratio` times its minimum or more for the last `steps` steps, or
    is so at the end, where that is above the loss of the best constant prediction, or the learning
    rate has since been raised to 3 times what it ever was before; and the rise is more than a tenth
    of that loss. It is an error
    where the loss also rises from its minimum to the end (Mann-Kendall over 20 means, p < 0.001) or
    ends above half the loss of the constant prediction, else a warning.

    Thresholds
        ratio: median loss over its minimum. steps: recorded steps.
    Unit
        of the loss
    Needs
        scalars/loss
    Source
        diverging loss: TheDeepChecker (twice the minimum)
    """
    found = _judged(signals)
    steps_of_loss, values = task_losses(signals)
    clean = np.where(np.isfinite(values), values, np.inf)
    medians = np.median(np.lib.stride_tricks.sliding_window_view(clean, TAIL), axis=-1)
    best = int(np.argmin(medians))
    lost = found.trivial is not None and found.last > found.level
    raised = _raised_rate(signals, found.best_step)
    late = medians[-1 if lost or raised else -int(steps) :]
    if not np.isfinite(found.best):
        return
    level = found.multiple(ratio, found.best)
    if found.solved or len(medians) - best <= len(late) or late.min() < level:
        return
    rise = found.last - found.best
    if rise < 0.1 * abs(found.level - found.perfect) or found.best < found.floor:
        return
    since = clean[best + TAIL - 1 :]
    rising = True
    if np.isfinite(since).all():
        length = len(since) // TAIL
        means = (
            since[len(since) - length * TAIL :].reshape(TAIL, -1).mean(axis=1) if length else since
        )
        tau, chance = mann_kendall(means)
        rising = tau > 0 and chance < 1e-3
    bad = rising or bool(raised) or found.last > found.at(0.5)
    ending = "at the end it is not finite"
    if np.isfinite(found.last):
        course = "and still rises" if rising else "and stays there"
        factor = f"{times(found.last / found.best)} that" if found.best > 0 else "more"
        ending = f"it is {factor} at the end ({number(found.last)}), {course}"
    yield Finding(
        rule="diverging",
        severity="error" if bad else "warning",
        first_step=found.best_step,
        last_step=int(steps_of_loss[-1]),
        explanation=(
            f"the loss had come down to {number(found.best)} by step {found.best_step}; {ending}"
            f"{f'; since then {raised}' if raised else ''}."
        ),
        tensor="scalars/loss",
        observed=found.last,
        usual=found.best,
        threshold=level,
        cause=raised or NOT_KNOWN,
        cause_kind="learning_rate" if raised else "not known",
        consequence="what was learned is lost",
        remedy="lower the learning rate, clip gradients, and take weights from before the rise",
    )


def _raised_rate(signals: Signals, since: int) -> str:
    """Say that the learning rate has been raised since a step, above all that it was before.

    Nothing where it has not, or is not known.
    """
    try:
        rates = signals.learning_rate
    except NotJudgedError:
        return ""
    before, after = (rates.values[at, 0] for at in (rates.steps <= since, rates.steps > since))
    if not len(before) or not len(after) or not after.max() > _RAISED * before.max() > 0:
        return ""
    return (
        f"the learning rate was raised to {times(float(after.max() / before.max()))} what it was "
        f"at most before ({number(float(after.max()))} instead of {number(float(before.max()))})"
    )


def _judged(signals: Signals) -> Outcome:
    require(not signals.several_models, "the trace is of several models, whose losses are opposed")
    found = outcome(signals)
    require(
        found is not None and found.steps >= LEAST_STEPS,
        f"the run has fewer than {LEAST_STEPS} steps",
    )
    assert found is not None
    return found
