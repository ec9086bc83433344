"""Units that no longer learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.finding import Finding, Severity
from steptrace_analyzer.anomalies.outcome import has_failed, outcome
from steptrace_analyzer.anomalies.signals import kernels, layer_path, require
from steptrace_analyzer.anomalies.words import plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_analyzer.anomalies.signals import Signals

_ENOUGH: Final = 0.25  # of the loss of the best constant prediction
_GATED: Final = ("LSTM", "GRU", "Embedding")  # their last axis is not that of units with a ReLU


def dead_units(
    signals: Signals, *, share: float = 0.5, told: float = 0.25, steps: float = 30
) -> Iterator[Finding]:
    """Find layers in which units get no gradient any more.

    A unit is dead where every weight that leads to it has had a gradient of exactly zero at each of
    the last `steps` recorded steps or longer, and its recorded outputs are zero. A column of a
    gradient covers the whole batch, so that this is proof: behind a ReLU the unit gives zero for
    all samples. A layer is reported from a share of `told` dead units on, as a warning from `share`
    on if the loss is above a quarter of that of the best constant prediction, and as an error if
    the loss is harmed too or above six tenths of that, or if all units are dead and it is above
    half. If the last layer gets no gradient either, no unit learns, and this rule reports nothing.

    Thresholds
        share, told: dead units over units of the layer, 0 to 1. steps: recorded steps.
    Unit
        share of the layer's units
    Needs
        gradients with their values
    Source
        DeadRelu of Amazon SageMaker Debugger (50 % of a layer); Lu et al., "Dying ReLU and
        Initialization", arXiv 1903.06733.
    """
    paths = [
        path
        for path in kernels(signals, signals.paths("gradients"))
        if not _is_gated(signals, layer_path(path))
    ]
    require(paths, "the trace holds no values of gradients of kernels")
    recorded = signals.steps("gradients")
    require(len(recorded) > steps, f"gradients are recorded at no more than {steps:.0f} steps")
    zero = {path: signals.unit_sizes("gradients", path) == 0 for path in paths}
    learning = _learning(signals, recorded)
    for path in paths[:-1]:
        since = _since(zero[path] & learning[:, np.newaxis])
        dead = (len(recorded) - since >= steps) & _gives_zero(signals, layer_path(path), since)
        found = float(dead.mean())
        if found < told:
            continue
        began = int(np.median(since[dead]))
        yield _finding(signals, path, recorded, dead, began, share)


def _learning(signals: Signals, recorded: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return at which steps any tensor of the last layer gets a gradient."""
    norms = signals.norms("gradients")
    order = [path for path in signals.paths("gradients") if path in norms.paths]
    last = [p for p in order if layer_path(p) == layer_path(order[-1])]
    columns = [norms.paths.index(path) for path in last]
    known = (norms.values[:, columns] > 0).any(axis=1)
    return np.asarray(np.isin(recorded, norms.steps[known]))


def _fits_well(signals: Signals) -> bool:
    """Whether the layer's remaining units are enough for the task."""
    found = outcome(signals)
    return found is not None and found.last <= found.at(_ENOUGH)


def _learns_little(signals: Signals) -> bool:
    """Whether the loss ends above half of that of the best constant prediction."""
    found = outcome(signals)
    return found is not None and found.last > found.at(0.5)


def _is_gated(signals: Signals, layer: str) -> bool:
    known = signals.layers.get(layer)
    return known is not None and any(word in known.class_name for word in _GATED)


def _since(zero: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return, for each unit, the row from which on it is zero to the end; all rows if never."""
    at_the_end = np.where(zero.all(axis=0), len(zero), np.argmin(zero[::-1], axis=0))
    return np.asarray(len(zero) - at_the_end, dtype=np.int64)


def _gives_zero(
    signals: Signals, layer: str, since: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Return which units give zero for the recorded samples at the last step, where that is known.

    A layer whose activation is a separate layer does not show it; its units count.
    """
    known = signals.layers.get(layer)
    path = f"{layer}/output"
    linear = known is None or known.activation in (None, "linear")
    if linear or not signals.has("activations", path):
        return np.ones(len(since), dtype=bool)
    output = np.asarray(signals.tensor("activations", path)[-1], dtype=np.float64)
    if output.shape[-1] != len(since):
        return np.ones(len(since), dtype=bool)
    rows = np.abs(output.reshape(-1, output.shape[-1]))
    return np.asarray(np.fmax.reduce(rows, axis=0) == 0)


def _finding(
    signals: Signals,
    path: str,
    recorded: npt.NDArray[np.int64],
    dead: npt.NDArray[np.bool_],
    began: int,
    share: float,
) -> Finding:
    found = float(dead.mean())
    layer = layer_path(path)
    step = int(recorded[began])
    noun = "channel" if signals.tensor("gradients", path).ndim > 3 else "unit"
    count = f"{int(dead.sum())} of {plural(len(dead), noun)} of {layer} ({found:.0%})"
    when = "from the first step on" if step == 0 else f"ever since step {step}"
    when += ", the first one with gradients" if step and began == 0 else ""
    cause = "see what happened at that step"
    if began == 0:
        dead_before = "initial weights, biases or the scale of the inputs"
        cause = "" if step else f"they were dead before the first step: {dead_before}"
    known = signals.layers.get(layer)
    what = "give zero and get" if known and known.activation not in (None, "linear") else "get"
    severity: Severity = "info"
    if found >= share and (has_failed(signals) or (found == 1 and _learns_little(signals))):
        severity = "error"
    elif found >= share and not _fits_well(signals):
        severity = "warning"
    return Finding(
        rule="dead_units",
        severity=severity,
        first_step=step,
        last_step=int(recorded[-1]),
        explanation=f"{count} {what} no gradient {when}, for any sample of any batch.",
        tensor=f"gradients/{path}",
        unit=int(np.flatnonzero(dead)[0]),
        observed=found,
        threshold=share,
        cause=cause,
        cause_kind="update" if began else "set-up" if cause else "not known",
        consequence="a unit without gradient never comes back, and the layer has fewer units",
        remedy=(
            "lower the learning rate or clip gradients, use He initialisation with zero biases, "
            "or a leaky activation (arXiv 1903.06733)"
            + ("" if began == 0 else "; weights must be taken from before that step")
        ),
        evidence={"units": np.flatnonzero(dead).tolist(), "units_of_layer": len(dead)},
    )
