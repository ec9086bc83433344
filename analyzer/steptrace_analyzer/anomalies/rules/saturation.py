"""Units that sit on the flat ends of their activation function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.finding import Finding
from steptrace_analyzer.anomalies.outcome import outcome
from steptrace_analyzer.anomalies.signals import require
from steptrace_analyzer.anomalies.words import number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_analyzer.anomalies.signals import Signals

_FLAT: Final = 0.01  # of the largest slope
_STEPS: Final = 50  # steps that are looked at, spread over the second half of the run


def saturation(signals: Signals, *, share: float = 0.7) -> Iterator[Finding]:
    """Find hidden layers most of whose units are on the flat ends of a sigmoid or tanh.

    The slope of the activation function is below a hundredth of its largest for `share` of all
    pre-activations of the probe, in the second half of the run. The last layer is left out: there
    it means certainty. Good networks are saturated in part, so that it is reported only where the
    loss ends above half of that of the best constant prediction, or well above its minimum.

    Thresholds
        share: pre-activations on a flat end, over all
    Unit
        share of the pre-activations
    Needs
        probe
    Source
        SaturatedActivation of Amazon SageMaker Debugger; DeepDiagnosis; gate: own
    """
    found = outcome(signals)
    require(found is not None, "the run is too short, or has no one loss")
    assert found is not None
    paths = [
        path
        for path in signals.paths("probe")
        if path.endswith("/preactivation") and _function(signals, path) in ("sigmoid", "tanh")
    ]
    all_paths = [path for path in signals.paths("probe") if path.endswith("/preactivation")]
    require(all_paths, "the trace holds no pre-activations")
    if not found.harmed and found.last <= found.at(0.5):
        return
    steps = signals.steps("probe")
    late = steps[len(steps) // 2 :]
    chosen = late[np.unique(np.linspace(0, len(late) - 1, _STEPS).astype(int))]
    for path in paths:
        if path == all_paths[-1]:
            continue
        values = np.asarray(signals.tensor("probe", path).sel(step=chosen), np.float64)
        slope = _slope(_function(signals, path), values)
        flat = float((slope < _FLAT).mean())
        if flat < share:
            continue
        layer = path.removesuffix("/preactivation")
        yield Finding(
            rule="saturation",
            severity="error" if found.failed else "warning",
            first_step=int(steps[0]),
            last_step=int(steps[-1]),
            explanation=(
                f"{flat:.0%} of the pre-activations of {layer} lie where its "
                f"{_function(signals, path)} is flat (median magnitude "
                f"{number(float(np.median(np.abs(values))))})."
            ),
            tensor=f"probe/{path}",
            observed=flat,
            threshold=share,
            cause="inputs or weights of the layer are too large for its activation function",
            cause_kind="set-up",
            consequence="next to no gradient passes the layer",
            remedy="scale the inputs, initialise smaller (Glorot), normalise, or lower the rate",
        )


def _function(signals: Signals, path: str) -> str:
    layer = signals.layers.get(path.removesuffix("/preactivation"))
    return (layer.activation or "") if layer is not None else ""


def _slope(name: str, values: np.ndarray) -> np.ndarray:
    """Return the slope over its largest."""
    clipped = np.clip(values, -50, 50)
    if name == "tanh":
        return np.asarray(1 - np.tanh(clipped) ** 2)
    share = 1 / (1 + np.exp(-clipped))
    return np.asarray(4 * share * (1 - share))
