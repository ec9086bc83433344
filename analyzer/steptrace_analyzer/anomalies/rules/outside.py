"""Weights that something other than the optimizer changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steptrace_analyzer.anomalies.causes import OUTSIDE
from steptrace_analyzer.anomalies.finding import Finding, NotJudgedError
from steptrace_analyzer.anomalies.outside import outside_changes
from steptrace_analyzer.anomalies.signals import require
from steptrace_analyzer.anomalies.words import listed, number, plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_analyzer.anomalies.explain import UpdateExplanation
    from steptrace_analyzer.anomalies.signals import Signals


def outside(
    signals: Signals, *, share: float = 0.1, most_gigabytes: float = 4.0
) -> Iterator[Finding]:
    """Find weights that changed by what the optimizer's formula does not give.

    The formula of the optimizer is run over the recorded gradients of every trainable weight, as
    `explain_update` does, and compared with the recorded weights. An element is off where it is
    farther from them than 4 ULP plus 16 parts in 2^23 of the terms it is computed from; where
    gradients were computed beside the training, four of the weight's largest steps are added. A
    weight of which more than `share` of the updates are off has something that acts again and
    again, such as a constraint, gradients that are changed before they are applied, or a program
    that sets weights, as meta-learning does: that is worth knowing only.

    Thresholds
        share: updates that are off over all, 0 to 1. most_gigabytes: of weights and gradients
        together that are read, in 10^9 bytes.
    Unit
        L2 norm of the change
    Needs
        weights and gradients of every step from the first on, and the optimizer's configuration
    Source
        update rules of Keras 3, `keras/src/optimizers`
    """
    size = (
        sum(
            signals.tensor(kind, path).nbytes
            for kind in ("weights", "gradients")
            for path in signals.paths(kind)
        )
        / 1e9
    )
    require(
        size <= most_gigabytes,
        f"weights and gradients are {size:.1f} GB; raise outside.most_gigabytes to read them",
    )
    changes, reasons = outside_changes(signals)
    if not changes and reasons:
        raise NotJudgedError(next(iter(reasons.values())))
    by_step: dict[int, list[UpdateExplanation]] = {}
    for path, (updates, found) in changes.items():
        if len(found) > max(2, share * updates):
            yield _always(path, updates, found)
            continue
        for change in found:
            by_step.setdefault(change.step, []).append(change)
    yield from (_at(step, found) for step, found in sorted(by_step.items()))


def _at(step: int, found: list[UpdateExplanation]) -> Finding:
    top, *rest = sorted(found, key=lambda change: -(change.outside_size or 0.0))
    text = (
        f"between steps {step} and {step + 1} {plural(top.outside or 0, 'element')} of {top.path} "
        f"changed outside the optimizer, by {number(top.outside_size or 0.0)} in all (L2 norm; the "
        f"optimizer's update was {number(top.predicted or 0.0)}), most at {list(top.element or ())}"
    )
    if rest:
        text += f", and so did {listed([change.path for change in rest])}"
    return Finding(
        rule="outside",
        severity="warning",
        first_step=step,
        last_step=step,
        explanation=f"{text}.",
        tensor=f"updates/{top.path}",
        unit=top.element[-1] if top.element else None,
        observed=top.outside_size,
        usual=0.0,
        threshold=top.bound,
        cause="something other than the optimizer wrote to the weight",
        cause_kind="outside",
        consequence="the network computes with weights that no gradient led to",
        remedy=OUTSIDE,
        evidence={
            "elements": top.outside,
            "element": list(top.element or ()),
            "ulp": top.ulp,
            "bound_ulp": top.bound,
        },
        others=tuple(f"updates/{change.path}" for change in rest),
    )


def _always(path: str, updates: int, found: list[UpdateExplanation]) -> Finding:
    first, last = found[0].step, found[-1].step
    is_always = len(found) == updates
    does = f"something changes them {'at every step' if is_always else 'again and again'}"
    cause = (
        "a constraint on the weight, gradients that are changed before they are applied, "
        f"{'' if is_always else 'weights that the program sets, '}or another configuration of "
        "the optimizer than the recorded one"
    )
    still = sum(change.recorded == 0 for change in found)
    if still >= len(found) / 2:
        does = f"{still} of them leave it as it is"
        cause = (
            "the program applies gradients at some steps only, as where it adds up those of "
            "several batches"
        )
    return Finding(
        rule="outside",
        severity="info",
        first_step=first,
        last_step=last,
        explanation=(
            f"{len(found)} of {plural(updates, 'update')} of {path} are not what the optimizer's "
            f"formula gives: {does}."
        ),
        tensor=f"updates/{path}",
        observed=len(found) / updates,
        usual=0.0,
        cause=cause,
        cause_kind="set-up",
        evidence={"updates": updates, "off": len(found)},
    )
