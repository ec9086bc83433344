"""Runs that did not end by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steptrace_analyzer.anomalies.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_analyzer.anomalies.signals import Signals


def broken_off(signals: Signals) -> Iterator[Finding]:
    """Find runs that ended without being closed, and say why.

    A step that raised an exception is an error. A run that was killed, and a recording that ended
    before the training did, are worth knowing only.

    Thresholds
        none
    Unit
        none
    Needs
        the trace's status
    """
    attributes = signals.attributes
    if attributes.status != "incomplete":
        return
    last = int(signals.loss.steps[-1])
    reason = (attributes.status_reason or "the trace does not say why").rstrip(".: ")
    raised = " raised " in reason
    yield Finding(
        rule="broken_off",
        severity="error" if raised else "info",
        first_step=last,
        last_step=last,
        explanation=f"the run ended after step {last}: {reason}.",
        cause=reason,
        cause_kind="set-up" if raised else "not known",
        consequence="later steps are not there",
        remedy=(
            "look at the batch of the next step, which the exception was raised for, and at its "
            "labels"
            if raised
            else "go on from the last checkpoint"
        ),
    )
