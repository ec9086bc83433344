"""Gradients that shrink or grow on their way through the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.finding import Finding
from steptrace_analyzer.anomalies.outcome import outcome
from steptrace_analyzer.anomalies.signals import kernels, require
from steptrace_analyzer.anomalies.trends import known_median
from steptrace_analyzer.anomalies.words import number, times

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_analyzer.anomalies.signals import Signals

_START: Final = 20  # steps left out at the start
_EARLY: Final = 20  # steps after it that a later size is compared with
_BLOCK: Final = 20


def vanishing(signals: Signals, *, ratio: float = 1e-3, moved: float = 0.02) -> Iterator[Finding]:
    """Find networks whose first layers get next to no gradient.

    The root mean square of the gradient of the first kernel is below `ratio` times that of the
    last one (median over the steps after the first 20), and all updates of the first kernel
    together are shorter than `moved` times that weight; adaptive optimizers that move it all the
    same are no fault. Only where the run has not come below half the loss of the best constant
    prediction: a solved task has small gradients. Kernels that get exactly none belong to
    `dead_units`.

    Thresholds
        ratio: first over last kernel's gradient. moved: sum of updates over weight.
    Unit
        ratio of root mean squares
    Needs
        statistics of gradients, updates and weights
    Source
        first over last layer below 1e-3: AutoTrainer; gates: own
    """
    sizes = _sizes(signals)
    found = outcome(signals)
    require(found is not None, "the run is too short, or has no one loss")
    assert found is not None
    first, last = next(iter(sizes)), next(reversed(sizes))
    if not sizes[last] or not 0 < sizes[first] < ratio * sizes[last]:
        return
    updates, weights = signals.norms("updates").of(first), signals.norms("weights").of(first)
    if updates is None or weights is None or found.last <= found.at(0.5):
        return
    share = float(np.nansum(updates.values)) / max(float(weights.values[0, 0]), 1e-30)
    if share >= moved:
        return
    yield Finding(
        rule="vanishing",
        severity="error" if found.failed else "warning",
        first_step=int(signals.loss.steps[0]),
        last_step=int(signals.loss.steps[-1]),
        explanation=(
            f"the gradient vanishes on its way back: an element of {first} has "
            f"{number(sizes[first])}, of {last} {number(sizes[last])} "
            f"({number(sizes[first] / sizes[last])} of it), and {first} has moved by "
            f"{number(share)} of its size in all."
        ),
        tensor=f"gradients/{first}",
        observed=sizes[first] / sizes[last],
        threshold=ratio,
        cause="each layer makes the gradient smaller: saturated activations, small weights, depth",
        cause_kind="set-up",
        consequence="the first layers stay as they were initialised",
        remedy=(
            "use ReLU-like activations with He initialisation, normalisation or residual "
            "connections, or fewer layers (Glorot and Bengio, 2010)"
        ),
        evidence={"sizes": sizes},
    )


def exploding(signals: Signals, *, ratio: float = 100.0) -> Iterator[Finding]:
    """Find gradients that grow without end.

    The median of 20 norms of a gradient exceeds `ratio` times the median of the first 20 steps, at
    the end of the run or before the values are no longer finite, while the loss has not improved.

    Thresholds
        ratio: norm over the norm at the start
    Unit
        L2 norm of the gradient
    Needs
        statistics of gradients
    Source
        100 times: torchmortem; AutoTrainer's 70 between layers is within the healthy range
    """
    norms = signals.norms("gradients")
    require(len(norms.steps) >= 2 * _EARLY, f"the run has fewer than {2 * _EARLY} steps")
    found = outcome(signals)
    grown: dict[str, tuple[float, float, int]] = {}
    for path, values in zip(norms.paths, norms.values.T, strict=True):
        known = np.flatnonzero(np.isfinite(values) & (values > 0))
        if len(known) < 2 * _BLOCK:
            continue
        start = float(np.median(values[known[:_EARLY]]))
        late = float(np.median(values[known[-_BLOCK:]]))
        if late > ratio * start:
            over = values[known] > ratio * start
            grown[path] = late, start, int(norms.steps[known[int(np.argmax(over))]])
    if not grown or found is None or not (found.harmed or found.last > 0.9 * found.first):
        return
    top = max(grown, key=lambda path: grown[path][0] / grown[path][1])
    late, start, step = grown[top]
    yield Finding(
        rule="exploding",
        severity="error",
        first_step=step,
        last_step=int(norms.steps[-1]),
        explanation=(
            f"the gradient of {top} has grown to {times(late / start)} its size at the start "
            f"({number(late)} instead of {number(start)}), and passed {number(ratio)} times at "
            f"step {step}."
        ),
        tensor=f"gradients/{top}",
        observed=late,
        usual=start,
        threshold=ratio * start,
        consequence="updates follow ever larger gradients, up to infinity",
        remedy="clip gradients by their global norm (Pascanu et al., 2013), lower the rate",
        others=tuple(f"gradients/{path}" for path in grown if path != top),
    )


def _sizes(signals: Signals) -> dict[str, float]:
    """Return the usual root mean square of the gradient of each kernel, in the model's order."""
    norms = signals.norms("gradients")
    paths = kernels(signals, [p for p in signals.paths("gradients") if p in norms.paths])
    require(len(paths) >= 3, "the model has fewer than three kernels")
    require(len(norms.steps) > 2 * _START, f"the run has no more than {2 * _START} steps")
    sizes: dict[str, float] = {}
    for path in paths:
        values: npt.NDArray[np.float64] = norms.values[_START:, norms.paths.index(path)]
        count = float(np.prod(signals.tensor("gradients", path).shape[1:]))
        sizes[path] = float(np.nan_to_num(known_median(values))) / float(np.sqrt(count))
    return sizes
