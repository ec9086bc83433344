"""Gradients that grow slowly before the loss gets worse."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.causes import first_broken
from steptrace_analyzer.anomalies.finding import Finding
from steptrace_analyzer.anomalies.jumps_of import jumps_of
from steptrace_analyzer.anomalies.outcome import WORSE, outcome, task_losses
from steptrace_analyzer.anomalies.scores import log_sizes
from steptrace_analyzer.anomalies.signals import require
from steptrace_analyzer.anomalies.words import number, plural, ratio_of, times

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_analyzer.anomalies.outcome import Outcome
    from steptrace_analyzer.anomalies.signals import Signals

    Floats = npt.NDArray[np.float64]

_WINDOW: Final = 200  # steps that a level is taken from
_LEAST: Final = 30  # of them that have to be there
_STRIDE: Final = 10  # steps that share a level
_FLOOR: Final = 0.1  # least spread of a logarithm
_CLIP: Final = 4.0  # spreads that a single step counts at most, so that jumps are no drift
_AFTER: Final = 20  # steps after a jump in which what grows is its effect
_RECENT: Final = 5  # steps that say how the loss was before a jump
_BEFORE: Final = 50  # steps by which a drift may come before the best of the loss


def drift(signals: Signals, *, alarms: float = 0.05, slack: float = 1.0) -> Iterator[Finding]:
    """Find gradients that had begun to grow when the loss began to get worse.

    A one-sided CUSUM over the logarithms of the gradients' norms: each is scored against the median
    and the spread of the 200 steps before it, freed of its correlation with the step before, and
    cut at 4; what exceeds `slack` is summed. The sum has to reach
    h = ln(2 slack^2 N T / alarms) / (2 slack) - 1.166 for N tensors and T steps, so that a run of
    noise has `alarms` alarms, however long it is and however many tensors it has. Only runs whose
    loss got worse are judged, and only what began from 50 steps before its best on until it was
    worse: in healthy runs gradients drift as well. What grows in the 20 steps after a jump belongs
    to that. Where the loss was still fine when something jumped, nothing before that is blamed.

    Thresholds
        alarms: expected in a run of noise. slack: spreads.
    Unit
        L2 norm of the gradient
    Needs
        statistics of gradients
    Source
        Page, "Continuous Inspection Schemes", 1954; h: Siegmund, "Sequential Analysis", 1985
    """
    norms = signals.norms("gradients")
    require(len(norms.steps) > 2 * _LEAST, f"the run has no more than {2 * _LEAST} steps")
    found = outcome(signals)
    require(found is not None, "the run is too short, or has no one loss")
    assert found is not None
    if not found.got_worse:
        return
    residuals = _residuals(log_sizes(norms.values))
    count = residuals.size
    limit = math.log(2 * slack**2 * count / alarms) / (2 * slack) - 1.166
    span = found.best_step - _BEFORE, _worse_from(signals, found)
    crossings = _crossings(residuals, slack, limit, norms.steps, span)
    if not crossings:
        return
    jumped = [jump.step for jump in jumps_of(signals, 8.0)]
    broken = first_broken(signals)
    sudden = [*jumped, *([broken - 1] if broken is not None else [])]
    # While the loss was still fine when something sudden happened, that made it worse.
    turns = [step for step in sudden if _is_fine_before(signals, step, found)]
    crossings = {
        column: (began, row)
        for column, (began, row) in crossings.items()
        if not any(0 <= int(norms.steps[began]) - step <= _AFTER for step in sudden)
        and not any(int(norms.steps[row]) < step for step in turns)
    }
    if not crossings:
        return
    (began, row), column = min((rows, column) for column, rows in crossings.items())
    values = norms.values[:, column]
    usual = float(np.median(values[max(0, began - _WINDOW) : began]))
    step, path = int(norms.steps[began]), norms.paths[column]
    late = float(np.median(values[max(began, row - _RECENT + 1) : row + 1]))
    others = len(crossings) - 1
    also = f", and so did {plural(others, 'other gradient')}" if others else ""
    yield Finding(
        rule="drift",
        severity="warning",
        first_step=step,
        last_step=int(norms.steps[row]),
        explanation=(
            f"from step {step} on the gradient of {path} grew step by step, to "
            f"{times(ratio_of(late, usual))} its usual size ({number(late)} instead of "
            f"{number(usual)}){also}."
        ),
        tensor=f"gradients/{path}",
        observed=late,
        usual=usual,
        threshold=limit,
        consequence="the loss got worse with it",
        remedy="lower the learning rate or clip gradients from before this step on",
        others=tuple(f"gradients/{norms.paths[c]}" for c in crossings if c != column),
    )


def _worse_from(signals: Signals, found: Outcome) -> int:
    """Return the first step after the best ones from which on a few losses are far above them."""
    steps, losses = task_losses(signals)
    after = np.flatnonzero(steps > found.best_step)
    windows = (losses[row : row + _RECENT] for row in after)
    worse = (
        int(steps[row])
        for row, window in zip(after, windows, strict=True)
        if not np.median(window) <= found.multiple(WORSE, found.best)
    )
    return next(worse, int(steps[-1]))


def _is_fine_before(signals: Signals, step: int, found: Outcome) -> bool:
    """Whether the loss of the steps before `step` was about as low as it ever was."""
    steps, losses = task_losses(signals)
    before = losses[steps < step][-_RECENT:]
    return len(before) > 0 and float(np.median(before)) <= found.multiple(WORSE, found.best)


def _residuals(logs: Floats) -> Floats:
    """Return scores against the recent level, freed of their correlation with the step before."""
    z = np.full(logs.shape, np.nan)
    for start in range(_LEAST, len(logs), _STRIDE):
        window = logs[max(0, start - _WINDOW) : start]
        known = np.flatnonzero((~np.isnan(window)).sum(axis=0) >= _LEAST)
        history = window[:, known]  # each with values, so that there is a median
        median = np.nanmedian(history, axis=0)
        spread = 1.4826 * np.nanmedian(np.abs(history - median), axis=0)
        block = np.arange(start, min(start + _STRIDE, len(logs)))
        place = np.ix_(block, known)
        z[place] = (logs[place] - median) / np.maximum(spread, _FLOOR)
    z = np.clip(np.nan_to_num(z), -_CLIP, _CLIP)
    first = z[: max(_LEAST * 2, len(z) // 2)]
    power = np.maximum((first[:-1] ** 2).sum(axis=0), 1e-12)
    correlation = np.clip((first[1:] * first[:-1]).sum(axis=0) / power, 0.0, 0.9)
    freed = np.zeros(z.shape)
    freed[1:] = (z[1:] - correlation * z[:-1]) / np.sqrt(1 - correlation**2)
    return np.clip(freed, -_CLIP, _CLIP)


def _crossings(
    residuals: Floats,
    slack: float,
    limit: float,
    steps: npt.NDArray[np.int64],
    span: tuple[int, int],
) -> dict[int, tuple[int, int]]:
    """Return, by tensor, the rows where its sum began to grow and where it reached the limit."""
    total = np.zeros(residuals.shape[1])
    began = np.zeros(residuals.shape[1], dtype=np.int64)
    found: dict[int, tuple[int, int]] = {}
    for row, each in enumerate(residuals):
        grown = np.maximum(0.0, total + each - slack)
        began = np.where(total == 0, row, began)
        total = grown
        for column in np.flatnonzero(total > limit).tolist():
            if column not in found and span[0] <= steps[began[column]] <= span[1]:
                found[column] = int(began[column]), row
            total[column] = 0.0
    return found
