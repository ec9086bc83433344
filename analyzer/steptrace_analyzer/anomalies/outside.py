"""Which updates of a trace the optimizer's formula does not give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from steptrace_analyzer.anomalies.explain import explanation
from steptrace_analyzer.anomalies.finding import NotJudgedError
from steptrace_analyzer.anomalies.optimizer.replay import Replay

if TYPE_CHECKING:
    from steptrace_analyzer.anomalies.explain import UpdateExplanation
    from steptrace_analyzer.anomalies.signals import Signals

    Changes = dict[str, tuple[int, list[UpdateExplanation]]]


def outside_changes(signals: Signals) -> tuple[Changes, dict[str, str]]:
    """Run the optimizer's formula over all trainable weights.

    Returns
    -------
    tuple
        By path, how many updates were compared (those that are numbers) and those that are off; and
        by path, why a weight could not be compared.
    """
    return signals.once("outside", lambda: _changes(signals))


def _changes(signals: Signals) -> tuple[Changes, dict[str, str]]:
    changes: Changes = {}
    reasons: dict[str, str] = {}
    last = int(signals.steps("gradients")[-1]) if len(signals.steps("gradients")) else 0
    optimizer = signals.attributes.optimizer
    averages = optimizer is not None and bool(optimizer.config.get("use_ema"))
    for path in signals.paths("gradients"):
        updates, found = 0, []
        try:
            for residual in Replay(signals, path).run():
                off = bool(residual.beyond.any())
                updates += off or bool(np.isfinite(residual.recorded).any())  # NaN says nothing
                # At the end of a training Keras puts the moving averages in the weights' place.
                if off and not (averages and residual.step == last):
                    found.append(explanation(signals, residual, path))
        except NotJudgedError as reason:
            reasons[path] = str(reason)
            continue
        changes[path] = updates, found
    return changes, reasons
