"""Weights that should move and do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from steptrace_analyzer.anomalies.finding import Finding
from steptrace_analyzer.anomalies.outcome import is_harmed, is_solved
from steptrace_analyzer.anomalies.signals import require
from steptrace_analyzer.anomalies.words import listed, plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_analyzer.anomalies.signals import Signals


def unchanged(signals: Signals, *, steps: float = 20) -> Iterator[Finding]:
    """Find weights with a gradient that the optimizer never moves.

    A trainable weight has a gradient that is not zero at `steps` steps or more in a row, up to the
    last, and an update of exactly zero at each of them: the gradient is not applied, or the update
    is lost in rounding. Weights without any gradient are frozen or dead, and no matter of this
    rule. Accumulation of gradients over fewer steps than `steps` is none.

    Thresholds
        steps: recorded steps
    Unit
        steps
    Needs
        statistics of gradients and updates
    Source
        UnchangedTensor of Amazon SageMaker Debugger; DeepLocalize
    """
    gradients, updates = signals.norms("gradients"), signals.norms("updates")
    shared = np.intersect1d(gradients.steps, updates.steps)
    require(len(shared) > steps, f"gradients and updates share no more than {steps:.0f} steps")
    moved = np.isin(updates.steps, shared)
    pulled = np.isin(gradients.steps, shared)
    still: dict[str, int] = {}
    for column, path in enumerate(gradients.paths):
        if path not in updates.paths:
            continue
        update = updates.values[moved, updates.paths.index(path)]
        at_rest = (update == 0) & (gradients.values[pulled, column] > 0)
        run = len(at_rest) if at_rest.all() else int(np.argmin(at_rest[::-1]))
        if run >= steps:
            still[path] = run
    if not still or is_solved(signals):
        return
    top = max(still, key=lambda path: still[path])
    rate = signals.learning_rate.values[-1, 0]
    yield Finding(
        rule="unchanged",
        severity="error" if is_harmed(signals) else "warning",
        first_step=int(shared[len(shared) - still[top]]),
        last_step=int(shared[-1]),
        explanation=(
            f"{listed(list(still))} {'does' if len(still) == 1 else 'do'} not move although there "
            f"is a gradient: {plural(still[top], 'update')} of zero in a row, up to the last."
        ),
        tensor=f"updates/{top}",
        observed=float(still[top]),
        threshold=steps,
        cause=(
            "the learning rate is zero"
            if rate == 0
            else "the gradient is not applied, or the update is lost in rounding"
        ),
        cause_kind="learning_rate" if rate == 0 else "set-up",
        consequence="these weights learn nothing",
        remedy="check which variables are given to the optimizer, and the precision of weights",
        others=tuple(f"updates/{path}" for path in still if path != top),
    )
