"""What else a trace says of the samples of a batch, and when they were trained on before."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_analyzer.anomalies.finding import NotJudgedError
from steptrace_schema.names import (
    RECORDED_ID,
    SAMPLE_DIGEST,
    SAMPLE_ID,
    SAMPLE_LOSS,
    SAMPLE_REPLICA,
)

if TYPE_CHECKING:
    from steptrace_analyzer.anomalies.signals import Signals

_MOST: Final = 4


@dataclasses.dataclass(frozen=True)
class Visit:
    """A step that trained on a sample, and the sample's loss there, where it is recorded."""

    step: int
    loss: float | None = None


def visits_before(signals: Signals, step: int, count: int) -> list[dict[str, Any]]:
    """Return loss, digest, id and earlier visits of the recorded samples of a step.

    Parameters
    ----------
    signals
        The trace.
    step
        The step.
    count
        How many samples are recorded.

    Returns
    -------
    list of dict
        One for each, with what is known; empty where several replicas train, since the rows of the
        whole batch are then others.
    """
    if signals.has("inputs", SAMPLE_REPLICA):
        return []
    places = _places(signals, step, count)
    found: list[dict[str, Any]] = [{} for _ in places]
    for name, key in ((SAMPLE_LOSS, "loss"), (SAMPLE_DIGEST, "digest"), (SAMPLE_ID, "id")):
        row = signals.row("inputs", name, step)
        if row is None:
            continue
        make = float if name == SAMPLE_LOSS else int
        for one, place in zip(found, places, strict=True):
            if place is not None and place < len(row):
                one[key] = make(row[place])
    for one in found:
        if "digest" in one:
            one["seen"] = _seen(signals, step, one["digest"])
    return found


def _places(signals: Signals, step: int, count: int) -> list[int | None]:
    """Return the place of each recorded sample in the batch, None where that is unknown."""
    picked = signals.row("inputs", RECORDED_ID, step)
    if picked is None:
        return list(range(count))
    ids = signals.row("inputs", SAMPLE_ID, step)
    if ids is None:
        return [None] * count
    places = {int(each): place for place, each in reversed(list(enumerate(ids)))}
    return [places.get(int(each)) for each in picked[:count]]


def _seen(signals: Signals, step: int, digest: int) -> tuple[Visit, ...]:
    steps, digests = signals.digests
    rows, places = np.nonzero(digests[steps < step] == digest)
    try:
        loss_steps, losses = signals.sample_losses
    except NotJudgedError:
        loss_steps, losses = np.zeros(0, np.int64), np.zeros((0, 0))
    found = []
    for row, place in list(zip(rows.tolist(), places.tolist(), strict=True))[-_MOST:]:
        at = int(steps[row])
        same = np.flatnonzero(loss_steps == at)
        has = len(same) and place < losses.shape[1] and np.isfinite(losses[same[0], place])
        found.append(Visit(at, float(losses[same[0], place]) if has else None))
    return tuple(found)
