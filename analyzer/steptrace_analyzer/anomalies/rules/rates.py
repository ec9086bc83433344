"""Learning rates by what they do: too small to move anything, too large to get anywhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.finding import Finding
from steptrace_analyzer.anomalies.geometry import geometries
from steptrace_analyzer.anomalies.outcome import LEAST_STEPS, outcome, task_losses
from steptrace_analyzer.anomalies.signals import kernels, require
from steptrace_analyzer.anomalies.trends import known_median
from steptrace_analyzer.anomalies.words import listed, number, ratio_of, times

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_analyzer.anomalies.outcome import Outcome
    from steptrace_analyzer.anomalies.signals import Signals

_START: Final = 20  # steps whose ratios say more about the start than about the rate
_EARLY: Final = 50  # steps in which a rate that is too high shows
_FAR: Final = 10.0  # times that loss: a start that another fault explains
_FIRST: Final = 10  # steps in which it overwrites the first weights
_ENOUGH: Final = 0.1  # of the loss of the best constant prediction
_LAST: Final = 5  # losses that a short run ends with
_LOST: Final = 10.0  # times the first weights: an update beside which they are nothing

_TOO_HIGH: Final = "the learning rate is too high for this network and optimizer"
_OVERSHOOT: Final = "steps overshoot, and units behind a ReLU die or others saturate"
_LOWER: Final = "lower the learning rate tenfold at a time, warm it up, or clip gradients"


def rate_too_low(
    signals: Signals, *, ratio: float = 1e-5, moved: float = 0.01
) -> Iterator[Finding]:
    """Find runs whose weights hardly move, and which learn nothing.

    Judged is what the optimizer does, never the learning rate's value, which means something else
    for each optimizer. The median of the update's norm over the weight's, after the first 20 steps,
    is below `ratio` for every kernel that gets a gradient, all updates together are shorter than
    `moved` times the first weights, and the loss ends above half the loss of the best constant
    prediction.

    Thresholds
        ratio: update over weight. moved: sum of updates over first weight.
    Unit
        L2 norm of update over L2 norm of weight
    Needs
        statistics of weights, gradients and updates
    Source
        1e-5: torchmortem; 1e-4: MindInsight; gate: own
    """
    found = _judged(signals)
    ratios, sums = _ratios(signals)
    if not ratios or found.last <= found.at(0.5):
        return
    top = max(ratios, key=lambda path: ratios[path])
    if ratios[top] >= ratio or max(sums.values()) >= moved:
        return
    rate = float(np.median(signals.learning_rate.values))
    yield Finding(
        rule="rate_too_low",
        severity="error" if found.failed else "warning",
        first_step=int(signals.loss.steps[0]),
        last_step=int(signals.loss.steps[-1]),
        explanation=(
            f"the weights hardly moved: in a usual step the update is {number(ratios[top])} of the "
            f"weight at most ({top}), and all updates together are {number(max(sums.values()))} "
            f"of it; the learning rate was {number(rate)}."
        ),
        tensor=f"updates/{top}",
        observed=ratios[top],
        threshold=ratio,
        cause="the learning rate is too low for this optimizer",
        cause_kind="set-up",
        consequence="the training takes too long to learn anything",
        remedy="raise the learning rate tenfold at a time, until updates are near 1e-3 of weights",
        evidence={"moved": max(sums.values()), "learning_rate": rate},
    )


def rate_too_high(
    signals: Signals,
    *,
    worse: float = 2.0,
    ratio: float = 0.1,
    overwritten: float = 0.5,
    exploded: float = 1000.0,
) -> Iterator[Finding]:
    """Find runs whose updates are so large that the loss does not come down as it could.

    Either single updates among the first 10 are longer than `overwritten` times the first weights,
    for half of the kernels: what initialisation gave is lost. Weights that are shorter than
    Glorot's initialisation would make them count as long as that, here and below. Or the first
    updates made things worse: among the first 50 steps the median of 3 losses reaches `worse` times
    the loss before the first update, and that of the best constant prediction. Or the median of the
    update's norm over the weight's, after the first 20 steps, is above `ratio` for some kernel. The
    last two count only where the loss ends above half that of the best constant prediction, or well
    above its minimum, the first one where the task is not solved. It is an error where the loss
    ends above six tenths of that, or a tenth where weights were overwritten, or well above its
    minimum; else a warning. A start that is already far worse than that prediction is another
    fault.

    In a run of less than 100 steps, of which less is known, the updates are too large where one of
    the first 10 is longer than 10 times the first weights, for half of the kernels, and the loss,
    of either sign, reaches `exploded` times the first one among the first 20 steps. It is an error
    where the loss ends above half of the first one.

    Thresholds
        worse, exploded: loss over first loss. ratio, overwritten: update over weight.
    Unit
        loss over first loss; L2 norm of update over L2 norm of weight
    Needs
        scalars/loss; statistics of weights, gradients and updates
    Source
        0.1: torchmortem, MindInsight; first updates: own; size of first weights: Glorot and Bengio,
        2010
    """
    require(not signals.several_models, "the trace is of several models, whose losses are opposed")
    early = _explosion(signals, exploded)
    if early is not None:
        yield early
        return
    found = _judged(signals)
    lost, lost_path, first_weights = _largest_first_update(signals)
    bad = found.harmed or found.last > found.at(0.5) or (lost > overwritten and not found.solved)
    if not bad or found.first > found.at(_FAR if lost > overwritten else 3):
        return
    steps, values = task_losses(signals)
    values = values[: _EARLY + 2]
    clean = np.where(np.isfinite(values), values, np.inf)
    peaks = np.median(np.lib.stride_tricks.sliding_window_view(clean, 3), axis=-1)
    peak = int(np.argmax(peaks))
    ratios, _ = _ratios(signals)
    top = max(ratios, key=lambda path: ratios[path]) if ratios else None
    usual = max(found.first, found.level)
    high = found.at(worse, usual)
    rose = peaks[peak] > high and _first_updates_jump(clean, high)
    large = top is not None and ratios[top] > ratio
    if not rose and not large and lost <= overwritten:
        return
    rate = float(signals.learning_rate.values[0, 0])
    parts, larger = [], ratio_of(float(peaks[peak]), found.first)
    if lost > overwritten:
        parts.append(
            f"one of the first {_FIRST} updates of {lost_path} was {times(lost)} as long as "
            f"{first_weights}, and half of the kernels had one as long as that or longer"
        )
    if rose:
        parts.append(
            f"the first updates made the loss {times(larger)} as large "
            f"({number(found.first)} before them, {number(float(peaks[peak]))} by step "
            f"{int(steps[peak + 1])})"
        )
    if large and top is not None:
        parts.append(f"in a usual step {top} moves by {number(ratios[top])} of its size")
    tensor = lost_path if lost > overwritten else top
    failed = found.failed or (lost > overwritten and found.last > found.at(_ENOUGH))
    yield Finding(
        rule="rate_too_high",
        severity="error" if failed else "warning",
        first_step=int(signals.loss.steps[0]),
        last_step=int(signals.loss.steps[-1]),
        explanation=f"the updates are too large: {', and '.join(parts)}; the learning rate was "
        f"{number(rate)}.",
        tensor=f"updates/{tensor}" if tensor else "scalars/loss",
        observed=lost if lost > overwritten else larger if rose else ratios[top] if top else None,
        threshold=overwritten if lost > overwritten else worse if rose else ratio,
        cause=_TOO_HIGH,
        cause_kind="set-up",
        consequence=_OVERSHOOT,
        remedy=_LOWER,
        evidence={
            "first_updates": lost or None,
            "update_ratio": ratios[top] if top else None,
            "learning_rate": rate,
        },
    )


def _explosion(signals: Signals, exploded: float) -> Finding | None:
    """Return what the first updates of a short run have done, where they have undone it."""
    steps, values = task_losses(signals)
    if len(values) >= LEAST_STEPS or int(steps[0]) != 0:
        return None
    sizes = np.where(np.isfinite(values), np.abs(values), 0.0)
    first, peak = float(sizes[0]), int(np.argmax(sizes[:_START]))
    larger = ratio_of(float(sizes[peak]), first)
    lost, path, first_weights = _largest_first_update(signals)
    if not first > 0 or larger < exploded or lost <= _LOST:
        return None
    last = float(np.median(np.where(np.isfinite(values), np.abs(values), np.inf)[-_LAST:]))
    rate = float(signals.learning_rate.values[0, 0])
    return Finding(
        rule="rate_too_high",
        severity="error" if last > first / 2 else "warning",
        first_step=0,
        last_step=int(steps[-1]),
        explanation=(
            f"the first updates are too large: an update of {path} was {times(lost)} as "
            f"long as {first_weights}, and half of the kernels had one as long as that or longer; "
            f"the loss went from {number(float(values[0]))} to {number(float(values[peak]))} by "
            f"step {int(steps[peak])}; the learning rate was {number(rate)}."
        ),
        tensor=f"updates/{path}",
        observed=lost,
        threshold=_LOST,
        cause=_TOO_HIGH,
        cause_kind="set-up",
        consequence=_OVERSHOOT,
        remedy=_LOWER,
        evidence={"first_updates": lost, "learning_rate": rate},
    )


def uphill(signals: Signals, *, cosine: float = 0.2) -> Iterator[Finding]:
    """Find optimizers that follow the gradient upwards.

    The median, over all steps, of the cosine between a kernel's gradient and the update that
    followed is above `cosine`. Downhill it is negative, with every optimizer and with momentum. One
    such kernel is enough: the others may make up for it, but no optimizer goes uphill by itself.

    Thresholds
        cosine: without unit
    Unit
        cosine
    Needs
        gradients and weights with their values
    Source
        own
    """
    require(not signals.several_models, "the trace is of several models, whose losses are opposed")
    medians = {}
    for path, each in geometries(signals).items():
        known = each.with_update[np.isfinite(each.with_update)]
        if len(known) >= _START:
            medians[path] = float(np.median(known))
    require(medians, f"fewer than {_START} steps have both a gradient and an update")
    wrong = [path for path, value in medians.items() if value > cosine]
    if not wrong:
        return
    top = max(wrong, key=lambda path: medians[path])
    steps = signals.steps("gradients")
    yield Finding(
        rule="uphill",
        severity="error",
        first_step=int(steps[0]),
        last_step=int(steps[-1]),
        explanation=(
            f"the updates follow the gradient upwards: their cosine is {number(medians[top])} for "
            f"{top}, and positive for {listed([p for p in wrong if p != top]) or 'no other'}."
        ),
        tensor=f"updates/{top}",
        observed=medians[top],
        threshold=cosine,
        cause="the sign of the gradient or of the loss is wrong where it is applied",
        cause_kind="set-up",
        consequence="every step of these weights makes the loss larger",
        remedy="check the sign in the loss, in a custom train_step and in a custom optimizer",
        evidence={"cosines": medians},
    )


def _largest_first_update(signals: Signals) -> tuple[float, str, str]:
    """Return the largest of the first updates over its weight, of the kernel in the middle.

    Half of the kernels have at least as large ones. With its path, and what it is compared with.
    0 where the trace does not hold the first step.
    """
    weights, updates = signals.norms("weights"), signals.norms("updates")
    early = updates.steps < _FIRST
    found: list[tuple[float, str, str]] = []
    for path in kernels(signals, updates.paths):
        weight, update = weights.of(path), updates.of(path)
        if weight is None or update is None or weight.row(0) != 0 or not early.any():
            continue
        largest = float(np.nan_to_num(update.values[early, 0], posinf=np.inf).max())
        first, usual = float(weight.values[0, 0]), _glorot_norm(signals, path)
        if np.isfinite(first) and first > 0:
            words = "its first weights"
            words = words if first >= usual else f"{words} would be by Glorot's initialisation"
            found.append((ratio_of(largest, max(first, usual)), path, words))
    return sorted(found)[(len(found) - 1) // 2] if found else (0.0, "", "")


def _glorot_norm(signals: Signals, path: str) -> float:
    """Return the L2 norm of a kernel as Glorot's initialisation is expected to make it."""
    inputs, outputs = signals.tensor("weights", path).shape[-2:]  # the field cancels out
    return math.sqrt(2 * inputs * outputs / (inputs + outputs))


def _first_updates_jump(losses: npt.NDArray[np.float64], level: float) -> bool:
    """Whether the rise to a level is steep: it takes few steps, as a steady ascent does not."""
    over = np.flatnonzero(losses > level)
    return bool(len(over)) and int(over[0]) <= _START


def _ratios(signals: Signals) -> tuple[dict[str, float], dict[str, float]]:
    """Return the median update ratio, and the sum of updates, of kernels that get a gradient."""
    weights, updates = signals.norms("weights"), signals.norms("updates")
    gradients = signals.norms("gradients")
    ratios: dict[str, float] = {}
    sums: dict[str, float] = {}
    for path in kernels(signals, gradients.paths):
        weight, update, gradient = (s.of(path) for s in (weights, updates, gradients))
        if weight is None or update is None or gradient is None:
            continue
        usual = known_median(weight.values)
        late = update.values[_START:, 0]
        if not usual > 0 or not known_median(gradient.values[_START:]) > 0:
            continue
        at = np.searchsorted(weight.steps, update.steps[_START:])
        size = np.maximum(weight.values[np.minimum(at, len(weight.values) - 1), 0], usual)
        size = np.maximum(size, _glorot_norm(signals, path))
        start = max(float(weight.values[0, 0]), 1e-30)
        ratios[path] = known_median(late / size)
        sums[path] = float(np.nansum(update.values)) / start
    return ratios, sums


def _judged(signals: Signals) -> Outcome:
    require(not signals.several_models, "the trace is of several models, whose losses are opposed")
    found = outcome(signals)
    require(
        found is not None and found.steps >= LEAST_STEPS,
        f"the run has fewer than {LEAST_STEPS} steps",
    )
    assert found is not None
    return found
