"""Batches that differ from those before them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.batches import (
    HISTORY,
    SMALL,
    input_scores,
    loss_change,
    same_inputs,
)
from steptrace_analyzer.anomalies.causes import (
    CHECK_BATCH,
    CHECK_LABELS,
    Cause,
    cause_of_all_high,
)
from steptrace_analyzer.anomalies.finding import Finding, NotJudgedError
from steptrace_analyzer.anomalies.growth import updates_grew
from steptrace_analyzer.anomalies.jumps_of import jumps_of
from steptrace_analyzer.anomalies.scores import log_sizes, trailing_scores
from steptrace_analyzer.anomalies.words import number, plural
from steptrace_analyzer.trace.batch import is_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_analyzer.anomalies.batches import InputChange
    from steptrace_analyzer.anomalies.signals import Signals

_CHANCE: Final = 1e-8  # of as many high losses in a batch like those before it
_HIGH: Final = 0.1  # share of the losses before that are called high
_AFTER: Final = 3  # steps after a jump in which high losses are its effect
_UNTOLD: Final = Cause(
    "not known", "not known: no batch comes after it, which weights that went wrong would spoil too"
)


def bad_batch(
    signals: Signals, *, z: float = 8.0, ratio: float = 5.0, losses: float = 4.0
) -> Iterator[Finding]:
    """Find batches whose inputs or targets, or whose samples' losses, are unlike those before.

    Inputs and targets that are magnitudes are scored by the logarithm of the root mean square of
    all rows against the 50 steps before, or of the recorded ones where the trace has no statistics
    of every sample; class ids and token ids are not magnitudes.
    Losses are those of all samples of the batch: the batch is unlike the 20 before it where so
    many of its losses are above nine tenths of theirs that chance gives it once in 10^8, where
    the median's logarithm is `losses` spreads above theirs and higher than any of them, where no
    update jumped in the steps before nor have updates grown to three times their usual length, and
    where the next batch's median is lower again: weights that have gone wrong raise the losses of
    the batches after them as well. Of the last batch that is not known. Where the same inputs, by
    their digests, had far smaller losses before, it is the labels.

    Thresholds
        z: spreads of the logarithm of a size. ratio: size over usual size; a hundredth of
        it counts too.
        losses: spreads of the logarithm of a batch's median loss.
    Unit
        root mean square of inputs or targets; loss
    Needs
        statistics of inputs; inputs/sample_loss, inputs/sample_digest
    """
    found: set[int] = set()
    judged = False
    for step, change in input_scores(signals):
        judged = True
        # Few rows of a skewed distribution are small together now and then.
        if abs(change.z) > z and not SMALL < change.value / change.usual < ratio:
            found.add(step)
            yield _from_inputs(step, change, z)
    try:
        steps, table = signals.sample_losses
    except NotJudgedError:
        if not judged:
            raise
        return
    yield from (
        finding
        for finding in _from_losses(signals, steps, table, losses)
        if finding.first_step not in found
    )


def _from_inputs(step: int, change: InputChange, z: float) -> Finding:
    of_targets = is_target(change.path)
    return Finding(
        rule="bad_batch",
        severity="warning",
        first_step=step,
        last_step=step,
        explanation=(
            f"at step {step} {change.text} (root mean square {number(change.value)} instead of "
            f"{number(change.usual)}, in {'all' if change.whole else 'the recorded'} rows)."
        ),
        tensor=f"inputs/{change.path}",
        observed=change.value,
        usual=change.usual,
        threshold=z,
        cause="the data of this batch",
        cause_kind="labels" if of_targets else "batch",
        consequence="the step follows a gradient that this batch alone has",
        remedy=CHECK_LABELS if of_targets else CHECK_BATCH,
        evidence={"z": change.z, "rows": list(change.rows)},
    )


def _from_losses(
    signals: Signals,
    steps: npt.NDArray[np.int64],
    table: npt.NDArray[np.float64],
    threshold: float,
) -> Iterator[Finding]:
    with np.errstate(all="ignore"):
        medians = np.array([_median(row) for row in table])
    scores = trailing_scores(log_sizes(medians[:, np.newaxis]))
    jumped = jumps_of(signals, 8.0)
    after_jump = {j.step + n for j in jumped if j.kind == "jump" for n in range(1, _AFTER + 1)}
    with np.errstate(invalid="ignore"):
        candidates = np.flatnonzero(scores.z[:, 0] > threshold)
    for row in candidates.tolist():
        step = int(steps[row])
        falls = row + 1 == len(steps) or medians[row + 1] < 0.75 * medians[row]
        recent = np.fmax.reduce(medians[max(0, row - 3) : row])
        highest = np.fmax.reduce(medians[max(0, row - HISTORY) : row])
        rises = medians[row] >= max(1.5 * recent, 1.2 * highest)
        if row < HISTORY or step in after_jump or not falls or not rises:
            continue
        if updates_grew(signals, step):
            continue
        change = loss_change(signals, step)
        if change is None or _chance(change.high, change.samples) > _CHANCE:
            continue
        is_last = row + 1 == len(steps)
        cause = _UNTOLD if is_last else cause_of_all_high(signals, change)
        inputs = same_inputs(signals, row)
        yield Finding(
            rule="bad_batch",
            severity="warning",
            first_step=step,
            last_step=step,
            explanation=(
                f"at step {step} the batch is unlike those before it: {change.high} of its "
                f"{plural(change.samples, 'sample')} have a loss above nine tenths of those of the "
                f"{HISTORY} batches before (median {number(change.median)} instead of "
                f"{number(change.usual)}). Cause: {cause.text}."
            ),
            tensor="inputs/sample_loss",
            observed=change.median,
            usual=change.usual,
            threshold=threshold,
            cause=cause.text,
            cause_kind=cause.kind,
            consequence="the step follows a gradient that this batch alone has",
            remedy=cause.remedy,
            evidence={
                "high": change.high,
                "samples": change.samples,
                "seen_before": change.seen,
                "seen_loss": change.seen_loss,
                "seen_at_steps": inputs,
            },
        )


def _median(row: npt.NDArray[np.float64]) -> float:
    known = row[np.isfinite(row)]
    return float(np.median(known)) if len(known) else float("nan")


def _chance(high: int, samples: int) -> float:
    """Return the probability that so many of the samples, or more, have a high loss by chance."""
    return sum(
        math.comb(samples, k) * _HIGH**k * (1 - _HIGH) ** (samples - k)
        for k in range(high, samples + 1)
    )
