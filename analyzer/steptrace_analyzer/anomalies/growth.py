"""What had grown before something broke."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.finding import NotJudgedError
from steptrace_analyzer.anomalies.trends import known_median
from steptrace_analyzer.anomalies.words import number, times

if TYPE_CHECKING:
    from steptrace_analyzer.anomalies.signals import Signals

_GROWN: Final = 10.0  # a norm that is this many times that of the first steps has exploded
_LARGER: Final = (
    3.0  # updates that are so many times as long as before may have spoiled the weights
)
_RECENT: Final = 5  # steps of them, compared with those before
_LEAST: Final = 20  # steps before


def growth(signals: Signals, step: int) -> str | None:
    """Say what had exploded by a step, None where nothing had."""
    for kind, noun in (("gradients", "gradient"), ("weights", "weight")):
        try:
            norms = signals.norms(kind)  # type: ignore[arg-type]
        except NotJudgedError:
            continue
        before = (
            norms.values[norms.steps < step]
            if kind == "gradients"
            else norms.values[norms.steps <= step]
        )
        columns = [i for i, p in enumerate(norms.paths) if kind == "gradients" or _is_kernel(p)]
        if not len(before) or not columns:
            continue
        before, paths = before[:, columns], [norms.paths[i] for i in columns]
        early = before[: max(1, min(5, len(before) - 1))]
        start = np.array([known_median(column) for column in early.T])
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(start > 0, before[-1] / start, 0.0)
        top = int(np.nanargmax(ratio)) if np.isfinite(ratio).any() else 0
        if ratio[top] > _GROWN:
            return (
                f"the {noun} of {paths[top]} had grown to {times(float(ratio[top]))} its "
                f"first size ({number(float(before[-1, top]))})"
            )
        large = before[-1] if kind == "gradients" else np.zeros(1)
        if np.fmax.reduce(large) > 1e3:
            top = int(np.nanargmax(large))
            return f"the gradient of {paths[top]} had a norm of {number(float(large[top]))}"
    return None


def updates_grew(signals: Signals, step: int) -> bool:
    """Whether the updates right before a step are far longer than those before them.

    Such updates may have spoiled the weights, so that a high loss says nothing of the batch.
    """
    try:
        norms = signals.norms("updates")
    except NotJudgedError:
        return False
    rows = np.flatnonzero(norms.steps < step)
    if len(rows) < _LEAST + _RECENT:
        return False
    lengths = np.sqrt(np.square(np.nan_to_num(norms.values[rows], posinf=np.inf)).sum(axis=1))
    usual = float(np.median(lengths[:-_RECENT]))
    return float(np.median(lengths[-_RECENT:])) > _LARGER * usual > 0


def _is_kernel(path: str) -> bool:
    """Whether a weight is no bias or offset, which begin at zero and grow without harm."""
    return not path.endswith(("bias", "beta", "gamma"))
