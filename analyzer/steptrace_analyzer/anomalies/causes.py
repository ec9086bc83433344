"""What best explains that an update or a gradient jumped."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.batches import (
    UNUSUAL,
    input_change,
    loss_change,
    numeric_inputs,
)
from steptrace_analyzer.anomalies.finding import NOT_KNOWN, CauseKind, NotJudgedError
from steptrace_analyzer.anomalies.growth import updates_grew
from steptrace_analyzer.anomalies.optimizer.setting import Setting
from steptrace_analyzer.anomalies.outside import outside_changes
from steptrace_analyzer.anomalies.resumed import resumed_at
from steptrace_analyzer.anomalies.whole_batch import knows_whole_batch
from steptrace_analyzer.anomalies.words import listed, number, times
from steptrace_analyzer.trace.batch import is_input, is_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steptrace_analyzer.anomalies.batches import LossChange
    from steptrace_analyzer.anomalies.jumps import Jump
    from steptrace_analyzer.anomalies.signals import Signals

AFTER_EFFECTS: Final = 5
"""Steps within which a jump is ascribed to the one before it."""
OUTSIDE: Final = (
    "look for what writes to weights between steps: a callback, assign or set_weights, a swap of "
    "averaged weights, a constraint; without any, check the memory and the device"
)
RESUMED_WITH_OTHERS: Final = (
    "give each model a tracer of its own, since what is said of the whole run mixes them; where "
    "one training continues, load its checkpoint before"
)
CHECK_BATCH: Final = "look at the samples of this batch (their digests and ids are recorded)"
CHECK_LABELS: Final = "look at the labels of this batch, and at how they are paired with the inputs"


@dataclasses.dataclass(frozen=True)
class Cause:
    """Why something happened, as far as the trace shows."""

    kind: CauseKind
    text: str
    remedy: str = ""


def cause_of_jump(signals: Signals, jump: Jump, earlier: Sequence[Jump]) -> Cause:
    """Name what best explains a jump: of several causes the one that no other can have caused.

    Parameters
    ----------
    signals
        The trace.
    jump
        What is to be explained.
    earlier
        Updates that jumped before it.
    """
    rate = jump.evidence.learning_rate
    top = jump.tensors[0]
    if rate is not None and jump.evidence.learning_rate_changed:
        scale = np.log(top.ratio) / top.z if top.z else 1.0
        if jump.kind == "jump" and top.z - np.log(rate.ratio) / scale <= top.z / 2:
            return Cause(
                "learning_rate",
                f"the learning rate was {times(rate.ratio)} its usual value "
                f"({number(rate.value)} instead of {number(rate.usual)})",
                "look at what sets the learning rate here: a schedule, a callback, a resume",
            )
    if jump.kind == "jump" and _is_average(signals, jump.step):
        return Cause(
            "set-up",
            "the optimizer put the moving averages in the weights' place, as its "
            "ema_overwrite_frequency asks",
        )
    follows = jump.step + 1
    if jump.kind == "jump" and resumed_at(signals, follows) and not jump.evidence.gradient_jumped:
        return Cause(
            "outside",
            f"the weights were replaced before step {follows}, where the recording was resumed: "
            "by another model, a checkpoint or the program",
            RESUMED_WITH_OTHERS,
        )
    if jump.kind == "jump" and _is_outside(signals, jump):
        return Cause(
            "outside",
            f"{top.path} was changed outside the optimizer: its formula does not give this update",
            OUTSIDE,
        )
    inputs = cause_in_inputs(signals, jump.step)
    if inputs is not None:
        return inputs
    broken = first_broken(signals)
    if broken is not None and broken <= jump.step:
        return Cause("update", f"weights that are not finite since step {broken}")
    if earlier and jump.step - earlier[-1].step <= AFTER_EFFECTS:
        before = earlier[-1]
        return Cause(
            "update",
            f"the jump of {before.tensor} at step {before.step}, after which the network gives "
            "other values",
        )
    in_losses = cause_in_losses(signals, jump.step)
    return in_losses or Cause("not known", NOT_KNOWN, CHECK_BATCH)


def _is_average(signals: Signals, step: int) -> bool:
    """Whether the optimizer is set to put averages in the weights' place at a step."""
    try:
        return Setting.of(signals).averages_at(step)
    except NotJudgedError:
        return False


def _is_outside(signals: Signals, jump: Jump) -> bool:
    """Whether the update that jumped most is not what the optimizer's formula gives."""
    changes, _ = outside_changes(signals)
    _, found = changes.get(jump.tensor, (0, []))
    return any(change.step == jump.step for change in found)


def first_broken(signals: Signals) -> int | None:
    """Return the first step whose weights are not finite, None where all are."""
    try:
        counts = [signals.statistic("weights", name) for name in ("nan", "inf")]
    except NotJudgedError:
        return None
    bad = sum(np.nan_to_num(count.values).sum(axis=1) for count in counts) > 0
    return int(counts[0].steps[np.argmax(bad)]) if np.any(bad) else None


def cause_in_inputs(signals: Signals, step: int) -> Cause | None:
    """Return what is unusual about the inputs or targets of a step, None where nothing is."""
    inputs = input_change(signals, step)
    if inputs is not None and abs(inputs.z) > UNUSUAL:
        kind: CauseKind = "labels" if is_target(inputs.path) else "batch"
        return Cause(kind, inputs.text, CHECK_BATCH)
    return None


def cause_in_losses(signals: Signals, step: int) -> Cause | None:
    """Return what the losses of a batch's samples say, None where they are as usual.

    They say it of the batch only where the weights are as they should be.
    """
    losses = None if updates_grew(signals, step) else loss_change(signals, step)
    if losses is not None and losses.all_high:
        return cause_of_all_high(signals, losses)
    if losses is not None and losses.rows:
        rows = listed(losses.rows)
        return Cause(
            "batch",
            f"a few samples of the batch have losses far above all others (row {rows})",
            CHECK_BATCH,
        )
    return None


def _usual_rows(signals: Signals) -> str:
    """Say what of the inputs was looked at, and what is left."""
    inputs = [path for path in numeric_inputs(signals) if is_input(path)]
    if inputs and all(knows_whole_batch(signals.trace, path) for path in inputs):
        return (
            "the size of its inputs is as usual, over all rows: its labels, or what its inputs show"
        )
    return (
        "the recorded rows of its inputs look as usual: its labels, or rows that are not recorded"
    )


def cause_of_all_high(signals: Signals, losses: LossChange) -> Cause:
    """Say what a batch is that nearly all samples of which have a loss far above the usual."""
    known = losses.seen >= losses.samples / 2 and losses.seen_loss is not None
    if known and losses.seen_loss is not None and losses.median > 2 * losses.seen_loss:
        return Cause(
            "labels",
            f"the batch's labels: its losses have the median {number(losses.median)}, of the same "
            f"inputs when they were last seen {number(losses.seen_loss)}",
            CHECK_LABELS,
        )
    return Cause(
        "batch",
        f"the batch: the median of its losses was {number(losses.median)} instead of "
        f"{number(losses.usual)}, while {_usual_rows(signals)}",
        CHECK_LABELS,
    )
