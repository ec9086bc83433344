"""A loss scale that collapses: steps that mixed precision skips again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.finding import CauseKind, Finding
from steptrace_analyzer.anomalies.measurements import statistics
from steptrace_analyzer.anomalies.words import number, plural
from steptrace_schema.names import LOSS_SCALE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_analyzer.anomalies.measurements import Series
    from steptrace_analyzer.anomalies.signals import Signals

_SHARE: Final = 0.1  # of the steps: more than a scale that grows now and then costs
_FLOAT16_MAX: Final = 65504.0


def loss_scale(signals: Signals, *, most: float = 10, least: float = 1.0) -> Iterator[Finding]:
    """Find loss scales that collapse, because steps are skipped again and again.

    A step whose gradients are not finite is skipped, and halves the scale. The search for a scale
    when a run begins takes a few such steps, and each time that the scale grows may cost one. What
    is found is more than that: `most` steps in a row, or as many in all where they are more than a
    tenth of the run, or a scale that falls below `least`, at which gradients overflow although
    nothing enlarges them. It is an error where the last step of the run was skipped too; else a
    warning.

    Thresholds
        most: steps. least: loss scale, without unit.
    Unit
        skipped steps
    Needs
        scalars/loss_scale, and scalars/skipped or statistics of gradients
    Source
        how a scale is searched for: Micikevicius et al., "Mixed precision training", 2018
    """
    scale = signals.scalar(LOSS_SCALE)
    values = scale.values[:, 0]
    skipped = np.isin(scale.steps, signals.skipped)
    runs = [run for run in _runs(skipped) if len(run) >= most]
    if runs:
        yield from (_finding(signals, scale, run, most) for run in runs)
        return
    rows = np.flatnonzero(skipped)
    if len(rows) >= most and len(rows) > _SHARE * len(values):
        yield _finding(signals, scale, rows, most)
    elif len(rows) and (values < least).any():
        yield _finding(signals, scale, rows[: int(np.argmax(values[rows] < 2 * least)) + 1], most)


def _runs(skipped: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.intp]]:
    """Return the rows of skipped steps, those without another one between them together."""
    rows = np.flatnonzero(skipped)
    return np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)


def _finding(signals: Signals, scale: Series, rows: npt.NDArray[np.intp], most: float) -> Finding:
    values = scale.values[:, 0]
    first, last = int(scale.steps[rows[0]]), int(scale.steps[rows[-1]])
    in_a_row = rows[-1] - rows[0] + 1 == len(rows)
    is_end = rows[-1] == len(values) - 1
    after = float(values[rows[-1]] if is_end else min(values[rows[-1] + 1], values[rows[-1]]))
    what = (
        f"{plural(len(rows), 'step')} in a row, {first} to {last}, were skipped"
        if in_a_row
        else f"{len(rows)} of the steps {first} to {last} were skipped"
    )
    kind, cause = _cause(signals, scale.steps[rows], after)
    return Finding(
        rule="loss_scale",
        severity="error" if is_end else "warning",
        first_step=first,
        last_step=last,
        explanation=(
            f"{what} because gradients were not finite, while the loss scale fell from "
            f"{number(float(values[rows[0]]))} to {number(after)}."
        ),
        tensor=f"scalars/{LOSS_SCALE}",
        observed=float(len(rows)),
        threshold=float(most),
        cause=cause,
        cause_kind=kind,
        consequence=(
            "nothing is learned at skipped steps"
            + ("; the run ends while steps are skipped" if is_end else "")
        ),
        remedy=(
            "begin with a smaller loss scale; scale targets and losses to about one; or use "
            "bfloat16, which has float32's range"
        ),
        evidence={"skipped": len(rows), "scale_before": float(values[rows[0]]), "scale": after},
    )


def _cause(signals: Signals, steps: npt.NDArray[np.int64], after: float) -> tuple[CauseKind, str]:
    """Say what the gradients of skipped steps were, as far as it is recorded."""
    loss = signals.loss
    if not np.isfinite(loss.values[np.isin(loss.steps, steps), 0]).all():
        return "not known", "not known: the loss itself was not finite at some of these steps"
    counts = statistics(signals.trace, "gradients", ("nan", "inf"))
    if counts:
        rows = np.isin(counts["nan"].steps, steps)
        nan, inf = (np.nan_to_num(counts[name].values[rows]).sum() for name in ("nan", "inf"))
        if nan and not inf:
            return "not known", (
                "not known: gradients were NaN, and none was infinite, as after an overflow"
            )
    return "overflow", (
        "the gradients, times the loss scale, leave the range of their type (float16 ends at "
        f"{number(_FLOAT16_MAX)})"
        + (", even where the scale does not enlarge them" if after < 1 else "")
    )
