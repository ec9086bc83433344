"""Why a weight changed as it did at a step."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from steptrace_analyzer.anomalies.finding import NotJudgedError
from steptrace_analyzer.anomalies.optimizer.replay import Replay
from steptrace_analyzer.anomalies.signals import Signals
from steptrace_analyzer.anomalies.words import number, plural, times
from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import resolve_tensor

if TYPE_CHECKING:
    from steptrace_analyzer.anomalies.optimizer.residual import Residual
    from steptrace_analyzer.trace.open import TraceOrPath


@dataclasses.dataclass(frozen=True)
class UpdateExplanation:
    """A recorded update beside what the optimizer's formula gives.

    Sizes are L2 norms. All but `step`, `path` and `reason` are None where the trace cannot say.

    Parameters
    ----------
    step, path
        Which update of which weight.
    reason
        Why the trace cannot say; None where it can.
    optimizer
        Its Keras class.
    explained
        Whether the formula gives the update, up to rounding.
    ulp, bound
        The largest error, and how large rounding can make it at that element, in units in the last
        place of the weight.
    recorded, predicted
        Size of the update, and of what the formula gives.
    gradient
        Size of what this step's gradient alone would have made; the rest is what the optimizer
        remembers.
    decay
        Size of the weight decay.
    clipping
        Factor by which clipping scaled the gradient; 1 where it did not.
    rate
        Learning rate.
    outside
        How many elements changed by what the formula does not give.
    outside_size
        Size of that part.
    element
        Index of the element where it is largest.
    skipped
        Whether the optimizer left the weight alone: it accumulates, or the loss scale is too large.
    beside
        Whether the gradients were computed beside the training, and are equal to its own only up to
        rounding. Then only changes are found that are larger than those of several steps.
    """

    step: int
    path: str
    reason: str | None = None
    optimizer: str | None = None
    explained: bool | None = None
    ulp: float | None = None
    bound: float | None = None
    recorded: float | None = None
    predicted: float | None = None
    gradient: float | None = None
    decay: float | None = None
    clipping: float | None = None
    rate: float | None = None
    outside: int | None = None
    outside_size: float | None = None
    element: tuple[int, ...] | None = None
    skipped: bool | None = None
    beside: bool | None = None

    def explain(self) -> str:
        """Say in a few sentences why the weight changed as it did."""
        if self.reason is not None:
            return f"Why {self.path} changed at step {self.step} cannot be said: {self.reason}."
        assert self.recorded is not None
        text = f"At step {self.step} {self.path} changed by {number(self.recorded)} (L2 norm)."
        if self.skipped:
            text += f" {self.optimizer} left it alone at this step."
        elif self.gradient is not None and self.predicted is not None:
            text += (
                f" {self.optimizer} with rate {number(self.rate or 0.0)} gives "
                f"{number(self.predicted)}; this step's gradient alone would have made "
                f"{number(self.gradient)}, what the optimizer remembers makes the difference."
            )
        if self.clipping is not None and self.clipping < 1:
            text += f" Clipping scaled the gradient to {times(self.clipping)} its size."
        if self.decay:
            text += f" Weight decay made {number(self.decay)} of it."
        if self.explained and self.beside and not self.skipped:
            return (
                f"{text} The gradients were computed beside the training, so that the formula "
                "gives only about this update, and a small change from outside would not be seen."
            )
        if self.explained:
            return f"{text} The formula gives it to within {self.ulp:.1f} ULP of the weight."
        assert self.outside is not None
        largest, possible = number(self.ulp or 0.0), number(self.bound or 0.0)
        return (
            f"{text} {plural(self.outside, 'element')} changed outside the optimizer, by "
            f"{number(self.outside_size or 0.0)} in all, most at {list(self.element or ())}: up to "
            f"{largest} ULP, where rounding gives {possible} at most."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        fields: dict[str, Any] = TypeAdapter(UpdateExplanation).dump_python(self, mode="json")
        return fields | {"explanation": self.explain()}


def explain_update(trace: TraceOrPath, step: int, path: str) -> UpdateExplanation:
    """Compare a recorded update with what the optimizer's formula makes of the recorded gradient.

    The formulas are those of Keras 3, in float32 and in Keras' order of operations. Where the trace
    holds the optimizer's slots (kind ``optimizer``), one step is computed from them; else the
    formula is run over the recorded gradients from the first step on. A weight is *changed outside
    the optimizer* where it is off by more than 4 ULP plus 16 parts in 2^23 of the terms that the
    update is computed from: between two recorded steps something else wrote to it (user code, a
    constraint, a swap of weights, a damaged memory). Where the trace says that gradients were
    computed beside the training, four of the weight's largest steps are added to that bound.

    Parameters
    ----------
    trace
        A trace, or its path.
    step
        The step whose update is to be explained.
    path
        A trainable weight, or as many of its last segments as single it out: ``"dense/kernel"``.

    Returns
    -------
    UpdateExplanation
        With `reason`, where the trace cannot say.

    Raises
    ------
    UnknownNameError
        If there is no such weight.

    Examples
    --------
    >>> print(explain_update("run.zarr", 60, "conv_2/kernel").explain())  # doctest: +SKIP
    """
    trace = opened(trace)
    path = resolve_tensor(trace, "weights", path)
    signals = Signals(trace)
    try:
        replay = Replay(signals, path)
        return explanation(signals, replay.at(step), path)
    except NotJudgedError as reason:
        return UpdateExplanation(step, path, reason=str(reason))


def explanation(signals: Signals, found: Residual, path: str) -> UpdateExplanation:
    """Put a residual into numbers."""
    rates = signals.learning_rate
    row = rates.row(found.step)
    off = (found.recorded - found.explained) * found.beyond
    optimizer = signals.attributes.optimizer
    return UpdateExplanation(
        step=found.step,
        path=path,
        optimizer=optimizer.class_name if optimizer is not None else None,
        explained=not found.beyond.any(),
        ulp=found.ulp,
        bound=found.bound,
        recorded=_size(found.recorded),
        predicted=_size(found.explained),
        gradient=_size(found.from_gradient),
        decay=_size(found.from_decay),
        clipping=found.clipping,
        rate=float(rates.values[row, 0]) if row is not None else None,
        outside=int(found.beyond.sum()),
        outside_size=_size(off),
        element=tuple(int(i) for i in np.unravel_index(int(np.argmax(np.abs(off))), off.shape)),
        skipped=found.skipped,
        beside=signals.attributes.capture.get("gradients") == "beside",
    )


def _size(values: Any) -> float:
    return float(np.linalg.norm(np.asarray(values, dtype=np.float64)))
