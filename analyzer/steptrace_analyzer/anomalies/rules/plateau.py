"""Losses that stand still, or go up and down, before the task is solved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.finding import Finding, NotJudgedError, Severity
from steptrace_analyzer.anomalies.geometry import geometries
from steptrace_analyzer.anomalies.outcome import TAIL, outcome, task_losses
from steptrace_analyzer.anomalies.signals import require
from steptrace_analyzer.anomalies.trends import block_means, mann_kendall
from steptrace_analyzer.anomalies.words import listed, number, plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_analyzer.anomalies.outcome import Outcome
    from steptrace_analyzer.anomalies.signals import Signals

_LEAST: Final = 200  # steps of a run
_BLOCK: Final = 10  # steps whose mean is one point of a loss that goes up and down
_CHANCE: Final = 0.05
_ERRORS: Final = 2.0  # standard errors that a mean falls by at least where it falls
_STEADY: Final = 1.5  # a rate that changes by less is one rate


def plateau(signals: Signals, *, better: float = 0.01, stood: float = 100) -> Iterator[Finding]:
    """Find losses that have stopped falling before the task is solved.

    The mean loss of the last eighth of the run is less than `better` below that of the eighth
    before, or by less than two standard errors of their difference. In the last quarter there is no
    downward trend (Mann-Kendall over 20 means, p < 0.05), and the loss has been about there for
    `stood` steps. Judged are runs of 200 steps or more that
    learned something, did not get worse and have not solved their task. It is worth knowing only:
    what cannot be predicted stays in the loss, and the trace does not say how much of it that is.

    Thresholds
        better: part of the loss by which it would have to be lower. stood: recorded steps.
    Unit
        of the loss
    Needs
        scalars/loss
    Source
        less than 1 % in the last quarter: losslint; gates: own
    """
    found = _judged(signals)
    if found.solved or found.harmed or found.learned_nothing:
        return
    steps, values = task_losses(signals)
    late = values[-(len(values) // 4) :]
    if not np.isfinite(late).all():
        return
    halves = np.array_split(late, 2)
    before, after = (float(half.mean()) for half in halves)
    noise = _ERRORS * float(np.sqrt(sum(half.var() / len(half) for half in halves)))
    tau, chance = mann_kendall(block_means(late, TAIL))
    fell = after < (1 - better) * before and before - after > noise
    if fell or (tau < 0 and chance < _CHANCE):
        return
    since = _standing_since(steps, values, after)
    if (steps >= since).sum() < stood:
        return
    lowered = _lowered_rate(signals, since)
    yield Finding(
        rule="plateau",
        severity="info",
        first_step=since,
        last_step=int(steps[-1]),
        explanation=(
            f"the loss stands still at {number(after)} since about step {since}"
            + (
                f", {number(after / found.trivial)} of that of the best constant prediction"
                if found.trivial
                else ""
            )
            + f"{lowered}."
        ),
        tensor="scalars/loss",
        observed=after,
        usual=before,
        threshold=(1 - better) * before,
        consequence="more steps of the same kind gain little",
        remedy=(
            "lower the learning rate or warm it up again; if that gains nothing, the rest is noise "
            "in the data, or needs a larger model"
        ),
    )


def oscillation(
    signals: Signals, *, cosine: float = -0.2, swing: float = 0.3, share: float = 0.4
) -> Iterator[Finding]:
    """Find updates that go back and forth, and losses that go up and down, and get nowhere.

    Judged is the second half of a run of 200 steps or more, at a rate that is one there, whose loss
    neither falls in it (Mann-Kendall over 20 means, p < 0.05) nor ends below half of that of the
    best constant prediction. Either the median cosine between a kernel's gradient and that of the
    step before is below `cosine`, for more than half of the kernels: each step undoes the one
    before. Or the means of 10 steps turn `share` times as often as they could or more, each time by
    `swing` times the loss of the best constant prediction. Alone, steep valleys and noisy batches
    are healthy. It is an error where the run is harmed, else a warning.

    Thresholds
        cosine: without unit. swing: difference between a high and the next low over the loss of the
        best constant prediction. share: turns over means.
    Unit
        cosine; of the loss
    Needs
        scalars/loss; gradients and weights with their values for the direction
    Source
        -0.2: traintools; turns of the loss: AutoTrainer (a fifth of the epochs); gates: own
    """
    found = _judged(signals)
    steps, values = task_losses(signals)
    half = len(values) // 2
    late = values[half:]
    if found.falling or found.last <= found.at(0.5) or not np.isfinite(late).all():
        return
    rates = signals.learning_rate
    rate = rates.values[rates.steps >= steps[half], 0]
    if not len(rate) or not rate.max() <= _STEADY * rate.min():
        return
    severity: Severity = "error" if found.harmed else "warning"
    back, unknown = _back_and_forth(signals, int(steps[half]), cosine)
    turns, height = _turns(late, swing * abs(found.level - found.perfect))
    count = len(late) // _BLOCK
    up_and_down = count >= TAIL // 2 and turns >= share * count
    if not back and not up_and_down:
        require(not unknown, unknown)
        return
    top = min(back, key=lambda path: back[path]) if back else None
    texts = []
    if top is not None:
        texts.append(
            f"each gradient of {top} points against the one before (median cosine "
            f"{number(back[top])}), also of {listed([p for p in back if p != top]) or 'no other'}"
        )
    if up_and_down:
        texts.append(
            f"the loss goes up and down by {number(height)} in the median, "
            f"{plural(turns, 'time')} in {len(late)} steps"
        )
    yield Finding(
        rule="oscillation",
        severity=severity,
        first_step=int(steps[half]),
        last_step=int(steps[-1]),
        explanation=f"{', and '.join(texts)}, and it does not fall.",
        tensor=f"gradients/{top}" if top is not None else "scalars/loss",
        observed=back[top] if top is not None else height,
        threshold=cosine if top is not None else swing * abs(found.level - found.perfect),
        cause="steps that are longer than the valley is wide",
        cause_kind="set-up",
        consequence="the steps undo each other",
        remedy="lower the learning rate or the momentum, or use larger batches",
        evidence={"cosines": back, "turns": turns},
        others=tuple(f"gradients/{path}" for path in back if path != top),
    )


def _back_and_forth(signals: Signals, first: int, cosine: float) -> tuple[dict[str, float], str]:
    """Return the kernels whose gradients turn round, if they are most, or why that is unknown."""
    try:
        found = geometries(signals)
    except NotJudgedError as reason:
        return {}, str(reason)
    medians = {}
    for path, each in found.items():
        known = each.with_previous[(each.steps >= first) & np.isfinite(each.with_previous)]
        if len(known) >= TAIL:
            medians[path] = float(np.median(known))
    if not medians:
        return {}, f"fewer than {TAIL} steps in a row have gradients"
    back = {path: value for path, value in medians.items() if value < cosine}
    return (back if len(back) > len(medians) / 2 else {}), ""


def _turns(values: npt.NDArray[np.float64], least: float) -> tuple[int, float]:
    """Return how often means of 10 losses turn by `least` or more, and the median height of that.

    A turn counts where the way from the last extreme is `least` long, so that small ones in
    between do not end it.
    """
    count = len(values) // _BLOCK
    means = values[len(values) - count * _BLOCK :].reshape(count, _BLOCK).mean(axis=1)
    heights: list[float] = []
    extreme, direction = float(means[0]) if count else 0.0, 0
    for mean in means[1:].tolist():
        way = mean - extreme
        if abs(way) >= least and np.sign(way) != direction:
            heights.append(abs(way))
            extreme, direction = mean, int(np.sign(way))
        elif direction and np.sign(way) == direction:
            extreme = mean
    return max(0, len(heights) - 1), float(np.median(heights)) if heights else 0.0


def _standing_since(
    steps: npt.NDArray[np.int64], values: npt.NDArray[np.float64], level: float
) -> int:
    """Return the first step from which on medians of 20 losses were about at the last level."""
    medians = np.median(np.lib.stride_tricks.sliding_window_view(values, TAIL), axis=-1)
    spread = float(np.median(np.abs(medians[-len(medians) // 4 :] - level)))
    above = np.flatnonzero(medians > level + max(3 * spread, 0.02 * abs(level)))
    return int(steps[int(above[-1]) + 1]) if len(above) else int(steps[0])


def _lowered_rate(signals: Signals, since: int) -> str:
    """Say that the rate had been lowered by then, which may be meant."""
    try:
        rates = signals.learning_rate
    except NotJudgedError:
        return ""
    most, last = float(rates.values.max()), float(rates.values[-1, 0])
    late = rates.values[rates.steps >= since, 0]
    if not len(late) or last > most / _STEADY:
        return ""
    return f", where the learning rate is {number(last)} at the end, of {number(most)} at most"


def _judged(signals: Signals) -> Outcome:
    require(not signals.several_models, "the trace is of several models, whose losses are opposed")
    found = outcome(signals)
    require(found is not None and found.steps >= _LEAST, f"the run has fewer than {_LEAST} steps")
    assert found is not None
    return found
