"""Weights that a training cannot begin well with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.baseline import constants
from steptrace_analyzer.anomalies.finding import Finding
from steptrace_analyzer.anomalies.outcome import has_failed, outcome, task_losses
from steptrace_analyzer.anomalies.signals import kernels, layer_path, require
from steptrace_analyzer.anomalies.words import listed, number, ratio_of, times

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_analyzer.anomalies.signals import Signals

_WAIT: Final = 20  # steps in which a layer that starts at zero comes to differ


def poor_start(signals: Signals, *, ratio: float = 3.0, large: float = 10.0) -> Iterator[Finding]:
    """Find runs whose first loss is far above that of the best constant prediction.

    Initial weights or inputs that are too large make a network sure of wrong answers. Of a
    regression the first loss is compared with that of predicting zero, where that is larger: the
    mean of the targets is what it learns first. It is an error where the first loss is `large`
    times as large or more and the run also ends above a fifth of the constant prediction's, or
    where the run learns nothing; a warning where it ends above a half; else it is worth knowing
    only.

    Thresholds
        ratio, large: first loss over the loss of the best constant prediction, or of zero
    Unit
        of the loss
    Needs
        scalars/loss from the first step on, inputs/y
    Source
        initial loss against its expected value: Karpathy, "A Recipe for Training Neural Networks"
    """
    constant = constants(signals)
    known = constant is not None and constant.best
    require(known, "the loss of the best constant prediction is not known for this loss")
    assert constant is not None
    trivial = constant.best
    steps, losses = task_losses(signals)
    require(int(steps[0]) == 0, "the trace does not begin with the first step")
    found = outcome(signals)
    first, zero = float(losses[0]), trivial if constant.zero is None else constant.zero
    usual = max(trivial, zero)
    if found is None or not first > found.at(ratio, usual):
        return
    far = first > found.at(large, usual) and found.last > found.at(0.2, trivial)
    bad, half = far or found.learned_nothing, found.at(0.5, trivial)
    yield Finding(
        rule="poor_start",
        severity="error" if bad else "warning" if found.last > half else "info",
        first_step=0,
        last_step=0,
        explanation=(
            f"before the first update the loss is {number(first)}, "
            f"{times(ratio_of(first, usual))} the {number(usual)} of "
            f"{'predicting zero' if zero > trivial else 'the best constant '}"
            f"{'' if zero > trivial else 'prediction'}."
        ),
        tensor="scalars/loss",
        observed=first,
        usual=usual,
        threshold=found.at(ratio, usual),
        cause="initial weights, inputs or targets are on the wrong scale for this network",
        cause_kind="set-up",
        consequence="the first updates are spent on undoing it, and may kill units",
        remedy=(
            "scale inputs and targets to mean 0 and standard deviation 1, use Glorot or He "
            "initialisation, and set the last bias to the mean target"
        ),
    )


def identical_units(signals: Signals, *, spread: float = 1e-6) -> Iterator[Finding]:
    """Find layers all of whose units compute the same.

    Twenty steps after the start the columns of a kernel differ from their mean by less than
    `spread` of their norm, or all are zero: units that begin alike and get the same
    gradient stay alike.

    Thresholds
        spread: without unit
    Unit
        root mean square of the columns' difference from their mean, over the columns' norm
    Needs
        weights with their values
    Source
        symmetry breaking: Goodfellow, Bengio, Courville, "Deep Learning", 8.4
    """
    paths = kernels(signals, signals.paths("gradients"))
    steps = signals.steps("weights")
    late = steps[steps >= _WAIT]
    require(paths, "the trace holds no values of gradients of kernels")
    require(len(late), f"weights are not recorded {_WAIT} steps after the start")
    alike: dict[str, float] = {}
    for path in paths:
        values = signals.row("weights", path, int(late[0]))
        if values is None or values.shape[-1] < 2:
            continue
        columns = values.astype(np.float64).reshape(-1, values.shape[-1])
        size = float(np.sqrt(np.square(columns).mean()))
        differs = float(np.sqrt(np.square(columns - columns.mean(axis=1, keepdims=True)).mean()))
        if np.isfinite(size) and (not size or differs < spread * size):
            alike[path] = differs / size if size else 0.0
    if not alike:
        return
    top = next(iter(alike))
    yield Finding(
        rule="identical_units",
        severity="error" if has_failed(signals) else "warning",
        first_step=int(steps[0]),
        last_step=int(late[0]),
        explanation=(
            f"all units of {listed([layer_path(path) for path in alike])} are the same at step "
            f"{int(late[0])}."
        ),
        tensor=f"weights/{top}",
        observed=alike[top],
        threshold=spread,
        cause="the weights began with the same number everywhere",
        cause_kind="set-up",
        consequence="the layer computes one feature, however many units it has",
        remedy="initialise kernels at random (Glorot, He); zeros are for biases and last layers",
        others=tuple(f"weights/{path}" for path in alike if path != top),
    )
