"""What validation data and single samples say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.baseline import constants, only_loss, trivial_loss
from steptrace_analyzer.anomalies.finding import Finding
from steptrace_analyzer.anomalies.outcome import is_harmed
from steptrace_analyzer.anomalies.rules.normalisation import is_short, learning_layers
from steptrace_analyzer.anomalies.signals import require
from steptrace_analyzer.anomalies.words import listed, number, plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_analyzer.anomalies.signals import Signals

_MOST_SAMPLES: Final = 20
_LATE: Final = 3  # last visits that a sample is judged by


def overfitting(
    signals: Signals, *, ratio: float = 1.15, evaluations: float = 3
) -> Iterator[Finding]:
    """Find a validation loss that rises while the training loss falls.

    It has been `ratio` times its minimum or more at each of the last `evaluations` evaluations,
    and the training loss has fallen since the minimum. It is a warning, and worth knowing only
    where layers of batch normalisation learn in a run of less than 1,000 steps: the moving averages
    that they validate with are not settled then.

    Thresholds
        ratio: validation loss over its minimum. evaluations: in a row, up to the last.
    Unit
        of the loss
    Needs
        validation/loss
    Source
        1.15 times the best: nnscope
    """
    require(signals.has("validation", "loss"), "the training does not validate")
    values = np.asarray(signals.tensor("validation", "loss"), dtype=np.float64)
    steps = signals.steps("validation")
    known = np.flatnonzero(np.isfinite(values))
    require(len(known) > evaluations, f"there are no more than {evaluations:.0f} evaluations")
    values, steps = values[known], steps[known]
    best = int(np.argmin(values))
    late = values[-int(evaluations) :]
    if values[best] <= 0 or best >= len(values) - evaluations or late.min() < ratio * values[best]:
        return
    loss = signals.loss
    before = loss.values[loss.steps <= steps[best], 0][-20:]
    after = loss.values[-20:, 0]
    if not len(before) or not np.median(after) < np.median(before):
        return
    unsettled = bool(learning_layers(signals)) and is_short(signals)
    yield Finding(
        rule="overfitting",
        severity="info" if unsettled else "warning",
        first_step=int(steps[best]),
        last_step=int(steps[-1]),
        explanation=(
            f"the validation loss was least at step {int(steps[best])} ({number(values[best])}), "
            f"and is {number(values[-1])} now, while the training loss went on falling from "
            f"{number(float(np.median(before)))} to {number(float(np.median(after)))}."
        ),
        tensor="validation/loss",
        observed=float(values[-1]),
        usual=float(values[best]),
        threshold=ratio * float(values[best]),
        cause=(
            "not known: the model learns its training data by heart, or its moving averages are "
            "not settled yet"
            if unsettled
            else "the model learns its training data by heart"
        ),
        cause_kind="not known" if unsettled else "set-up",
        consequence="weights of that step predict better than those of the end",
        remedy="stop there (EarlyStopping with restore_best_weights), regularise, or get more data",
    )


def suspect_samples(
    signals: Signals, *, visits: float = 3, ratio: float = 3.0
) -> Iterator[Finding]:
    """List samples that the model goes on to get wrong with certainty.

    A sample is known by its digest. Listed are those that were seen `visits` times or
    more, and whose mean loss over the last 3 visits, and that of the last one, are above `ratio`
    times the loss of the best constant prediction, the largest first. It is a list to look
    at, never an alarm: such samples are labelled wrong, or hard. Judged are classifications that
    learn something.

    Thresholds
        visits: times that a sample was seen. ratio: loss over that of the constant prediction.
    Unit
        of the loss
    Needs
        inputs/sample_loss, inputs/sample_digest, inputs/y
    Source
        loss over training as a sign of label errors: Pleiss et al., 2020; PTDB-1
    """
    trivial = trivial_loss(signals)
    require(trivial, "the loss of the best constant prediction is not known for this loss")
    assert trivial is not None
    loss = only_loss(signals)
    entropy = loss is not None and "entropy" in str(loss.function)
    require(entropy, "single losses of a regression have long tails, and no scale of their own")
    if is_harmed(signals):
        return
    steps, losses = signals.sample_losses
    _, digests = signals.digests
    require(digests.shape == losses.shape, "losses and digests are of different samples")
    known = np.isfinite(losses) & (digests != -1)
    ids, values = digests[known], losses[known]  # in the order of time
    order = np.argsort(ids, kind="stable")
    ids, values = ids[order], values[order]
    names, starts, counts = np.unique(ids, return_index=True, return_counts=True)
    often = counts >= visits
    require(often.any(), f"no sample was seen {visits:.0f} times")
    ends = starts + counts
    recent = np.array(
        [values[max(s, e - _LATE) : e].mean() for s, e in zip(starts, ends, strict=True)]
    )
    still = np.minimum(recent, values[ends - 1]) > ratio * trivial
    wrong = np.flatnonzero(often & still)
    wrong = wrong[np.argsort(-recent[wrong])][:_MOST_SAMPLES]
    if not len(wrong) or len(wrong) > 0.2 * often.sum():
        return
    places = []
    for digest in names[wrong]:
        row, place = np.argwhere(digests == digest)[-1]
        places.append({"digest": int(digest), "step": int(steps[row]), "row": int(place)})
    where = [f"step {p['step']} row {p['row']}" for p in places]
    yield Finding(
        rule="suspect_samples",
        severity="info",
        first_step=int(steps[0]),
        last_step=int(steps[-1]),
        explanation=(
            f"{plural(len(wrong), 'sample')} of {int(often.sum())} still "
            f"{'has' if len(wrong) == 1 else 'have'} a loss above {number(ratio)} times that of "
            f"the best constant prediction: {listed(where)}."
        ),
        tensor="inputs/sample_loss",
        observed=float(recent[wrong[0]]),
        usual=float(np.median(recent[often])),
        threshold=ratio * trivial,
        cause="wrong labels, or samples that are hard",
        cause_kind="labels",
        remedy="look at them, and at their labels",
        evidence={"samples": places, "losses": recent[wrong].tolist()},
    )


def regulariser(signals: Signals, *, share: float = 0.5, steps: float = 100) -> Iterator[Finding]:
    """Find losses that are mostly penalty.

    The penalty is the loss minus the mean of the samples' losses. It is more than `share` of the
    loss at each of the last `steps` steps, and the mean of the samples' losses has not come below
    nine tenths of the loss of the best constant prediction. A loss that is the sum of the samples'
    losses holds no penalty.

    Thresholds
        share: penalty over loss. steps: recorded steps.
    Unit
        share of the loss
    Needs
        scalars/loss, inputs/sample_loss, of one loss without sample weights
    Source
        regulariser overwhelming the loss: TheDeepChecker
    """
    require(not signals.several_models, "the trace is of several models, whose losses are opposed")
    weighted = signals.has("inputs", "sample_weight")
    require(not weighted, "the samples are weighted, so that their mean is not the loss")
    rows, losses = signals.sample_losses
    loss = signals.loss
    shared = np.intersect1d(rows, loss.steps)
    require(len(shared) > steps, f"no more than {steps:.0f} steps have losses of single samples")
    trivial = trivial_loss(signals)
    require(trivial, "the loss of the best constant prediction is not known for this loss")
    assert trivial is not None
    constant = constants(signals)
    perfect = 0.0 if constant is None else constant.perfect
    chosen = shared[-int(steps) :]
    own = losses[np.isin(rows, chosen)]
    counts = np.isfinite(own).sum(axis=1)
    task = np.nansum(own, axis=1) / np.maximum(counts, 1)
    whole = loss.values[np.isin(loss.steps, chosen), 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = (whole - task) / whole
    if not (part > share).all() or np.median(task) < perfect + 0.9 * (trivial - perfect):
        return
    if np.allclose(whole, np.nansum(own, axis=1), rtol=1e-3):
        return
    yield Finding(
        rule="regulariser",
        severity="error",
        first_step=int(chosen[0]),
        last_step=int(chosen[-1]),
        explanation=(
            f"{float(np.median(part)):.0%} of the loss is penalty: "
            f"{number(float(np.median(whole)))} in all, {number(float(np.median(task)))} for the "
            "task, which is not learned (a "
            f"constant prediction has {number(trivial)})."
        ),
        tensor="scalars/loss",
        observed=float(np.median(part)),
        threshold=share,
        cause="the regularisation is too strong",
        cause_kind="set-up",
        consequence="weights shrink instead of learning",
        remedy="lower the factor of the regulariser, or the weight decay, tenfold at a time",
    )
