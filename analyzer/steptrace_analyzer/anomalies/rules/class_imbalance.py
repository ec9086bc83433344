"""Classes that are so rare that the model does not learn them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.categories import categories
from steptrace_analyzer.anomalies.finding import Finding
from steptrace_analyzer.anomalies.outcome import LEAST_STEPS, outcome
from steptrace_analyzer.anomalies.signals import require
from steptrace_analyzer.anomalies.words import listed, number, times

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_analyzer.anomalies.categories import Categories
    from steptrace_analyzer.anomalies.signals import Signals

_SAMPLES: Final = 500  # seen, before shares of classes are compared
_EACH: Final = 5  # losses of a class, before they say how it is predicted
_LATE: Final = 0.25  # of the run


def class_imbalance(
    signals: Signals, *, ratio: float = 10.0, ignored: float = 0.9
) -> Iterator[Finding]:
    """Find classification data in which a class is rare, and is not learned while others are.

    The samples of the most frequent class are `ratio` times those of a rarer one or more, counted
    each time that a sample is seen. The rarer class is not learned where its samples' mean loss,
    over the last quarter of the run, is above `ignored` times the logarithm of its share (with the
    sign changed): the loss that a prediction of nothing but the shares has there. Both are needed,
    and a model that learned something: many data sets are uneven, and learned all the same. Where
    the samples are weighted, their losses say nothing of that. Classes are counted from the
    categories of all samples, or, where the trace has none, of the recorded rows, as it then says.

    Thresholds
        ratio: samples of the most frequent class over those of another. ignored: loss of a class
        over the loss of a prediction of the classes' shares.
    Unit
        ratio of counts
    Needs
        inputs/sample_statistics with categories, or inputs/y; inputs/sample_loss
    Source
        10: ClassImbalance of Amazon SageMaker Debugger (500 samples); gate: own
    """
    found = outcome(signals)
    require(
        found is not None and found.steps >= LEAST_STEPS,
        f"the run has fewer than {LEAST_STEPS} steps",
    )
    assert found is not None
    classes = categories(signals)
    require(classes.known >= _SAMPLES, f"the classes of fewer than {_SAMPLES} samples are known")
    ids, counts = np.unique(classes.values[classes.values >= 0], return_counts=True)
    if len(ids) < 2 or len(ids) > classes.known / _SAMPLES * 50:
        return  # one class, or as many as there may be words: no rare ones among few
    rare = ids[counts.max() >= ratio * counts]
    if not len(rare) or found.learned_nothing:
        return
    weighted = signals.has("inputs", "sample_weight")
    require(not weighted, "the samples are weighted, so that their losses are not compared")
    losses = _late_losses(signals, classes)
    shares = dict(zip(ids.tolist(), (counts / counts.sum()).tolist(), strict=True))
    unlearned = {
        each: losses[each]
        for each in rare.tolist()
        if each in losses and losses[each] > -ignored * float(np.log(shares[each]))
    }
    if not unlearned:
        return
    names = sorted(unlearned, key=lambda each: shares[each])
    top = names[0]
    most = int(ids[np.argmax(counts)])
    seen = int(signals.batch_size.values.sum())
    of = "" if classes.whole else f", by the {classes.known:,} recorded samples of {seen:,}"
    yield Finding(
        rule="class_imbalance",
        severity="warning",
        first_step=int(classes.steps[0]),
        last_step=int(classes.steps[-1]),
        explanation=(
            f"class {most} is {times(float(counts.max()) / counts[ids == top][0])} as frequent as "
            f"class {top}{of}, and {'the classes' if len(names) > 1 else 'class'} "
            f"{listed(names)} {'are' if len(names) > 1 else 'is'} not learned: its samples' loss "
            f"is {number(unlearned[top])} at the end, where {number(-np.log(shares[top]))} is that "
            "of a prediction of the shares alone."
        ),
        tensor="inputs/y",
        observed=float(counts.max()) / float(counts[ids == top][0]),
        threshold=ratio,
        cause="the data is uneven, and a mean over samples hardly counts the rare classes",
        cause_kind="data",
        consequence="the model does not predict the rare classes, which accuracy does not show",
        remedy="weight the classes (class_weight), draw rare samples more often, look at recall",
        evidence={"shares": shares, "losses": losses},
    )


def _late_losses(signals: Signals, classes: Categories) -> dict[int, float]:
    """Return the mean loss of the samples of each class in the last quarter of the run."""
    steps, losses = signals.sample_losses
    late = steps[int((1 - _LATE) * len(steps)) :]
    shared = np.intersect1d(late, classes.steps)
    mine: npt.NDArray[np.float64] = losses[np.isin(steps, shared)]
    labels = classes.values[np.isin(classes.steps, shared)]
    width = min(mine.shape[1], labels.shape[1])
    mine, labels = mine[:, :width], labels[:, :width]
    known = np.isfinite(mine) & (labels >= 0)
    found: dict[int, float] = {}
    for each in np.unique(labels[known]).tolist():
        own = mine[known & (labels == each)]
        if len(own) >= _EACH:
            found[each] = float(own.mean())
    require(found, "no class has enough losses of single samples")
    return found
