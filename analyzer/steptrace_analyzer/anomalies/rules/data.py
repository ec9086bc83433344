"""Data that no optimizer copes with: wrong scale, wrong order, the same thing again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.batches import numeric_inputs
from steptrace_analyzer.anomalies.finding import Finding, Severity
from steptrace_analyzer.anomalies.outcome import outcome
from steptrace_analyzer.anomalies.signals import require
from steptrace_analyzer.anomalies.trends import known_median
from steptrace_analyzer.anomalies.words import number, plural
from steptrace_analyzer.trace.batch import is_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_analyzer.anomalies.signals import Signals

_SCALES: Final = ("Normalization", "Rescaling", "BatchNormalization", "LayerNormalization")
_FIRST_LAYERS: Final = 3  # among which one that scales the inputs is looked for


def unscaled_inputs(
    signals: Signals, *, largest: float = 10.0, offset: float = 5.0
) -> Iterator[Finding]:
    """Find inputs, or targets of a regression, whose numbers are far from mean 0 and spread 1.

    The usual step's largest magnitude is above `largest`, or the mean is more than `offset`
    standard deviations from zero while it is above 1. Class ids and token ids are not looked
    at, nor are inputs that one of the first layers scales, nor a target that the model's last loss
    fits. It is an error where the run is harmed or its first loss was 10 times that of the best
    constant prediction and it still ends above a fifth of that; a warning where it ends above a
    half; else worth knowing only, for inputs; targets that are fitted are none.

    Thresholds
        largest: magnitude. offset: mean over standard deviation.
    Unit
        of the inputs
    Needs
        statistics of inputs
    Source
        [-1, 1]: UMLAUT, DeepDiagnosis, here ten times that
    """
    means, stds = signals.input_statistic("mean"), signals.input_statistic("std")
    lows, highs = signals.statistic("inputs", "min"), signals.statistic("inputs", "max")
    first_layers = [
        layer.class_name for layer in signals.attributes.layers if layer.class_name != "InputLayer"
    ][:_FIRST_LAYERS]
    scaled = any(name in _SCALES for name in first_layers)
    severity = _severity(signals)
    for path in numeric_inputs(signals):
        of_targets = is_target(path)
        if (scaled and not of_targets) or (of_targets and severity == "info"):
            continue
        columns = [series.of(path) for series in (means, stds, lows, highs)]
        if any(column is None for column in columns):
            continue
        mean, std, low, high = (
            known_median(column.values) for column in columns if column is not None
        )
        magnitude = max(abs(low), abs(high))
        shifted = abs(mean) > offset * std and abs(mean) > 1
        if not magnitude > largest and not shifted:
            continue
        noun = "targets" if of_targets else "inputs"
        yield Finding(
            rule="unscaled_inputs",
            severity=severity,
            first_step=int(means.steps[0]),
            last_step=int(means.steps[-1]),
            explanation=(
                f"the {noun} ({path}) have mean {number(mean)}, standard deviation {number(std)} "
                f"and reach {number(low)} to {number(high)} in a usual step."
            ),
            tensor=f"inputs/{path}",
            observed=magnitude,
            threshold=largest,
            cause=f"the {noun} are not scaled",
            cause_kind="data",
            consequence=(
                "first outputs and gradients are as many times too large, and one learning rate "
                "fits some weights only"
            ),
            remedy="subtract the mean and divide by the standard deviation of the training data",
            evidence={"mean": mean, "std": std},
        )


def sorted_labels(signals: Signals, *, share: float = 0.5) -> Iterator[Finding]:
    """Find batches that hold one class each, because the data is in the order of its labels.

    Of the steps at which two samples or more are recorded, `share` have equal labels for all of
    them, and that is 5 times what the classes' shares give by chance.

    Thresholds
        share: steps whose recorded labels are all equal, over all
    Unit
        share of the steps
    Needs
        inputs/y of class ids, of two samples or more
    Source
        shuffling: Bottou, "Stochastic Gradient Descent Tricks", 2012
    """
    labels = np.asarray(signals.tensor("inputs", "y"))
    require(labels.ndim == 2 and labels.shape[1] > 1, "no labels of two samples or more are kept")
    values = labels.astype(np.float64)
    whole = np.isfinite(values) & (values == np.round(values))
    require(whole.mean() > 0.5, "the targets are no class ids")
    complete = whole.all(axis=1) & (values >= 0).all(axis=1)
    require(complete.sum() >= 20, "fewer than 20 steps have recorded labels")
    known = values[complete]
    _, counts = np.unique(known, return_counts=True)
    if len(counts) < 2 or len(counts) > known.size / 4:
        return
    chance = float(((counts / counts.sum()) ** known.shape[1]).sum())
    alike = float((known == known[:, :1]).all(axis=1).mean())
    if alike < max(share, min(5 * chance, 0.95)):
        return
    steps = signals.steps("inputs")
    severity = _severity(signals)
    yield Finding(
        rule="sorted_labels",
        severity="warning" if severity == "info" else severity,
        first_step=int(steps[0]),
        last_step=int(steps[-1]),
        explanation=(
            f"at {alike:.0%} of the steps all recorded samples have one label; in mixed batches "
            f"{chance:.1%} would."
        ),
        tensor="inputs/y",
        observed=alike,
        usual=chance,
        threshold=share,
        cause="the data is in the order of its labels, and is not shuffled",
        cause_kind="data",
        consequence="the network learns the class at hand and forgets the ones before",
        remedy="shuffle the data before every epoch, over all of it and not within a small buffer",
    )


def repeated_inputs(signals: Signals, *, share: float = 0.25) -> Iterator[Finding]:
    """Find batches with copies of their own samples, and runs that see one batch only.

    Samples are compared by the digests of their bytes. Reported is the first step from which on
    `share` of a batch's rows are copies of others at half of the steps or more.

    Thresholds
        share: copies over rows of a batch
    Unit
        share of the rows
    Needs
        inputs/sample_digest
    Source
        near-duplicates as a fault of data: traintools
    """
    steps, digests = signals.digests
    require(len(steps) >= 20, "fewer than 20 steps have digests")
    shares = np.zeros(len(steps))
    for row, each in enumerate(digests):
        known = each[each != -1]
        shares[row] = 1 - len(np.unique(known)) / len(known) if len(known) else 0.0
    seen = np.unique(digests[digests != -1])
    rows = int((digests != -1).sum(axis=1).max(initial=0))
    many = shares >= share
    if many.mean() < 0.5 and len(seen) > rows:
        return
    one_batch = len(seen) <= rows and not many.mean() >= 0.5
    text = (
        f"all {plural(len(steps), 'step')} train on the same {plural(len(seen), 'sample')}"
        if one_batch
        else f"in a usual batch {float(np.median(shares)):.0%} of the rows are copies of others"
    )
    yield Finding(
        rule="repeated_inputs",
        severity="info" if one_batch else "warning",
        first_step=int(steps[0] if one_batch else steps[np.argmax(many)]),
        last_step=int(steps[-1]),
        explanation=f"{text}.",
        tensor="inputs/sample_digest",
        observed=float(np.median(shares)),
        threshold=share,
        cause="how the batches are drawn or augmented" if not one_batch else "one batch of data",
        cause_kind="data",
        consequence="a batch says less than its size promises",
        remedy="look at the sampler, at repeat() and at what pads the last batch",
    )


def _severity(signals: Signals) -> Severity:
    """Return how bad a fault of the data's scale is, by what came of the run."""
    found = outcome(signals)
    if found is None:
        return "info"
    far = found.trivial is not None and found.first > found.at(10)
    if found.harmed or (far and found.last > found.at(0.2)):
        return "error"
    return "warning" if found.last > found.at(0.5) else "info"
