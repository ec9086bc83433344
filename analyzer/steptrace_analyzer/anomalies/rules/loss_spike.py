"""A loss that jumps, and whether it comes back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.finding import Finding
from steptrace_analyzer.anomalies.resumed import resumed_at
from steptrace_analyzer.anomalies.signals import require
from steptrace_analyzer.anomalies.trends import recent_median, trailing_spread
from steptrace_analyzer.anomalies.words import number, plural, ratio_of, times

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_analyzer.anomalies.signals import Signals

RECENT: Final = 5
"""Steps that a loss is compared with: few, since a loss usually has a trend."""
_RELATIVE: Final = 0.1  # least spread of a logarithm
_NOTHING: Final = 1e-9  # of the first losses: stands for a usual loss of zero
_SMALL: Final = 0.02  # of the first losses: a smaller rise does not matter
_SOLVED: Final = 0.05  # of the first losses: below it a loss is back, however small it was
_CALM: Final = 3  # usual losses in a row that end a spike


def loss_spike(
    signals: Signals,
    *,
    z: float = 6.0,
    ratio: float = 2.0,
    patience: float = 30,
    history: float = 20,
) -> Iterator[Finding]:
    """Find steps at which the loss leaves its recent course, and say whether it comes back.

    A loss is compared with the median of the 5 steps before it, since a loss has a trend. The
    spread is that of the logarithm of the same ratio over the 128 steps before (1.4826 times the
    median of its absolute values), at least 0.1. The loss spikes from `z` spreads on,
    where it also is `ratio` times as large and the rise is more than 2 % of the run's first losses.
    It is back once 3 losses in a row are below `ratio` times the usual one, or below 5 % of the
    first losses. A spike that is not back after `patience` steps, or before the run
    ends, is an error, or a warning where the recording was resumed at its step; else it is worth
    knowing only.

    Thresholds
        z: spreads above the usual loss, without unit. ratio: loss over usual loss. patience:
        steps. history: steps before which nothing is judged.
    Unit
        of the loss
    Needs
        scalars/loss
    Source
        6 spreads of the last 128 losses: OLMo-core, `optim/skip_step_optimizer.py`. Several times
        the median: losslint.
    """
    require(not signals.several_models, "the trace is of several models, whose losses are opposed")
    loss = signals.loss
    values = loss.values[:, 0]
    require((values > 0).any(), "the loss is never positive, so that its ratios say nothing")
    require(len(values) > history, f"the run has no more than {history:.0f} steps")
    usual = recent_median(values, RECENT)
    start = float(np.median(values[:RECENT]))
    usual = np.maximum(usual, _NOTHING * abs(start))
    with np.errstate(invalid="ignore", divide="ignore"):
        rises = np.log(np.where(values > 0, values, np.nan) / usual)
        spread = np.maximum(trailing_spread(rises, 128), _RELATIVE)
        fires = (rises > z * spread) & (values > ratio * usual)
        fires &= values - usual > _SMALL * start
    fires[: int(history)] = False
    row = 0
    while row < len(values):
        if not fires[row]:
            row += 1
            continue
        back = _back(values, row, max(ratio * float(usual[row]), _SOLVED * start))
        level = float(usual[row]) * max(ratio, float(np.exp(z * spread[row])))
        found = _finding(loss.steps, values, row, back, float(usual[row]), level, patience)
        if found.severity == "error" and resumed_at(signals, found.step):
            found = dataclasses.replace(found, severity="warning")  # other weights, no fault
        yield found
        row = len(values) if back is None else max(back, row + 1)


def _back(values: npt.NDArray[np.float64], row: int, usual: float) -> int | None:
    """Return the first row from which on the loss is usual again, None where there is none."""
    calm = values[row + 1 :] < usual
    for start in range(len(calm)):
        window = calm[start : start + _CALM]
        if window.all() and (len(window) == _CALM):
            return row + 1 + start
    return None


def _finding(
    steps: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    row: int,
    back: int | None,
    before: float,
    level: float,
    patience: float,
) -> Finding:
    step = int(steps[row])
    since = int(steps[-1] if back is None else steps[back]) - step
    severe = since >= patience
    larger = times(ratio_of(float(values[row]), float(before)))
    text = (
        f"the loss was {number(values[row])} at step {step}, {larger} the "
        f"{number(before)} of the {RECENT} steps before"
    )
    if back is None and since < patience:
        consequence = f"the run ends {plural(since, 'step')} later, before the loss is back"
    elif back is None:
        late = values[max(row, len(values) - 20) :]
        late = late[np.isfinite(late)]
        ending = f"it is {number(float(np.median(late)))}" if len(late) else "it is not finite"
        consequence = (
            f"the loss has not come back: {ending} over the last steps, "
            f"{plural(since, 'step')} later"
        )
    else:
        consequence = f"the loss was back after {plural(since, 'step')}"
    return Finding(
        rule="loss_spike",
        severity="error" if severe else "info",
        first_step=step,
        last_step=int(steps[-1] if back is None else steps[back - 1]),
        explanation=f"{text}; {consequence}.",
        tensor="scalars/loss",
        observed=float(values[row]),
        usual=before,
        threshold=level,
        consequence=consequence,
        remedy=(
            "look at the batch and the update of this step (steptrace explain); go back to a "
            "checkpoint before it and leave the batch out, or clip gradients (PaLM restarted 100 "
            "steps earlier and left out 200 to 500 batches, arXiv 2204.02311)"
        ),
        evidence={"recovered_after": None if back is None else since},
    )
