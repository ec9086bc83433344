"""NaN and infinity in what does not train: metrics, validation, probe, and what was logged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from steptrace_analyzer.anomalies.finding import Finding
from steptrace_analyzer.anomalies.non_finite import first_non_finite
from steptrace_analyzer.anomalies.non_finite_cause import cause_of_non_finite
from steptrace_analyzer.anomalies.words import listed
from steptrace_schema.names import LOSS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_analyzer.anomalies.non_finite import NonFiniteTensor
    from steptrace_analyzer.anomalies.signals import Signals

_BESIDE: Final[tuple[Kind, ...]] = ("validation", "probe", "probe_gradients", "logged")


def non_finite_beside(signals: Signals) -> Iterator[Finding]:
    """Find what is not finite although the training that it belongs to is.

    There is nothing to find from the step on at which a tensor of the training itself is not
    finite: all else follows from that.
    """
    found = first_non_finite(signals.trace)
    tensors = [t for t in found if t.kind != "activations"]  # a mask does no harm
    if not tensors or not _is_beside(tensors[0]):
        return
    first = tensors[0]
    cause = cause_of_non_finite(signals.trace, first)
    others = tuple(f"{t.kind}/{t.path}" for t in tensors[1:] if _is_beside(t))
    name = f"{first.kind}/{first.path}"
    what = "NaN" if first.nan else "infinite"
    text = f"at step {first.step} {name} is {what}"
    if first.nan + first.inf > 1:
        text = f"at step {first.step} {name} has {first.nan + first.inf} elements that are "
        text += "not finite"
    text += f"; {cause}"
    if others:
        text += f"; later or with it {listed(others)}"
    yield Finding(
        rule="non_finite",
        severity="warning",
        first_step=first.step,
        last_step=first.step,
        explanation=f"{text}.",
        tensor=name,
        observed=float(first.nan + first.inf),
        usual=0.0,
        threshold=1.0,
        cause=cause,
        cause_kind="not known" if first.kind == "logged" else "overflow",
        consequence="the training itself is finite up to this step",
        remedy="look at how this number is computed; the weights of the step are recorded",
        evidence={"nan": first.nan, "inf": first.inf},
        others=others,
    )


def _is_beside(tensor: NonFiniteTensor) -> bool:
    return tensor.kind in _BESIDE or (tensor.kind == "scalars" and tensor.path != LOSS)
