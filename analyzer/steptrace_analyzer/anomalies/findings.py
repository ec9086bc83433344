"""What :func:`find_anomalies` finds, and its wording."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from steptrace_analyzer.trace.batch import is_target
from steptrace_schema.names import X, Y

if TYPE_CHECKING:
    from steptrace_schema.names import Kind

Cause = Literal["batch", "learning_rate", "gradient", "unexplained"]
"""What best explains a jump: the data, the learning rate, a gradient that jumped although its batch
looks usual, or nothing that the trace records."""

InputProperty = Literal["size", "spread", "mean"]
"""Root mean square, standard deviation, or mean of all elements."""

REPEATED_SHARE: Final = 0.25
"""From this share of copies on, a batch's repeated rows are mentioned."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A value at a step against its own history before it."""

    value: float
    usual: float
    """Median of the history."""
    z: float
    """Robust z-score; of the logarithm, where `ratio` is not None."""
    ratio: float | None = None
    """`value` over `usual`, for sizes; None for values that may be negative."""


@dataclasses.dataclass(frozen=True)
class InputChange:
    """What is unusual about the recorded rows of a batch."""

    tensor: str
    """``x`` or ``y``; ``x_<name>`` or ``y_<name>`` where there are several."""
    property: InputProperty
    change: Change


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What else happened at the step of a jump; None where the trace does not say."""

    update: Change | None
    """Norm of the update of the tensor that jumped most."""
    gradient: Change | None
    """Norm of its gradient."""
    gradient_jumped: bool
    learning_rate: Change | None
    learning_rate_changed: bool
    loss: Change | None
    loss_jumped: bool
    inputs: InputChange | None
    """The most unusual property of the batch."""
    inputs_changed: bool
    batch_size: Change | None
    batch_size_changed: bool
    repeated: float | None
    """Share of the batch's rows that are copies of another of its rows, 0 to 1."""


@dataclasses.dataclass(frozen=True)
class JumpedTensor:
    """One tensor whose update, or gradient, was too large."""

    path: str
    norm: float
    """L2 norm of the update or gradient."""
    usual: float
    """Median of that norm before."""
    z: float

    @property
    def ratio(self) -> float:
        """The norm over its usual size."""
        return self.norm / self.usual


@dataclasses.dataclass(frozen=True)
class MovedUnit:
    """One output unit (or filter) of the tensor that jumped most."""

    index: int
    norm: float
    """L2 norm of its part of the update or gradient."""
    share: float
    """Its part of the sum of squares, 0 to 1."""


@dataclasses.dataclass(frozen=True)
class Jump:
    """Parameters, or gradients alone, went much further in one step than their history predicts."""

    kind: Literal["jump", "gradient"]
    """Whether parameters jumped, or a gradient did that the optimizer kept from moving them far."""
    step: int
    tensors: tuple[JumpedTensor, ...]
    """Most unusual first."""
    units: tuple[MovedUnit, ...]
    """Of the first tensor, those that moved most; empty where it has no unit axis."""
    unit_noun: Literal["filter", "unit"]
    duration: int
    """Recorded steps until all was back to normal; 1 for a single step."""
    cause: Cause
    evidence: Evidence

    @property
    def tensor(self) -> str:
        """Path of the tensor that jumped most."""
        return self.tensors[0].path

    def explain(self) -> str:
        """Say in a sentence or two what moved, how far, and why."""
        top = self.tensors[0]
        if self.kind == "jump":
            text = f"At step {self.step} the update of {top.path} was {_times(top.ratio)} its"
            text += " usual size"
        else:
            text = f"At step {self.step} the gradient of {top.path} was {_times(top.ratio)} its"
            text += " usual size"
        text += f" (z {top.z:.0f})"
        if self.units:
            text += f", most in {self.unit_noun} {self.units[0].index}"
        others = len(self.tensors) - 1
        if others:
            text += f", and {others} other tensor{'s' * (others > 1)} jumped with it"
        text += f"; {_reasons(self.kind, self.cause, self.evidence)}."
        if self.duration > 1:
            what = "Updates" if self.kind == "jump" else "Gradients or updates"
            text += f" {what} stayed unusually large for {self.duration} steps."
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        fields = dataclasses.asdict(self)
        fields["tensors"] = [dataclasses.asdict(t) | {"ratio": t.ratio} for t in self.tensors]
        return fields | {"explanation": self.explain()}


@dataclasses.dataclass(frozen=True)
class NonFiniteTensor:
    """The first tensor of a kind that has a NaN or an infinity."""

    kind: Kind
    path: str
    step: int
    nan: int
    """Elements that are NaN."""
    inf: int
    """Elements that are infinite."""


@dataclasses.dataclass(frozen=True)
class NonFinite:
    """NaN or infinity appeared; the first place is where it came from."""

    kind: ClassVar[Literal["non_finite"]] = "non_finite"

    step: int
    tensors: tuple[NonFiniteTensor, ...]
    """The first tensor of each kind, in the order in which the values spread."""
    cause: str
    """One clause."""

    @property
    def tensor(self) -> str:
        """Kind and path of the tensor where it began."""
        return f"{self.tensors[0].kind}/{self.tensors[0].path}"

    def explain(self) -> str:
        """Say where the values came from and where they went."""
        first, *rest = self.tensors
        text = f"At step {self.step} {self.tensor} has {_counts(first)}; {self.cause}."
        if rest:
            then = ", ".join(f"{t.kind}/{t.path} at step {t.step}" for t in rest)
            text += f" It spread to {then}."
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        fields = dataclasses.asdict(self)
        return {"kind": self.kind, **fields, "explanation": self.explain()}


Anomaly = Jump | NonFinite
"""A finding: each has `kind`, `step`, `tensor`, `explain()` and `to_dict()`."""


def _times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 9.95 else f"{ratio:.1f}x"


def _counts(tensor: NonFiniteTensor) -> str:
    parts = [f"{tensor.nan} NaN"] * (tensor.nan > 0) + [f"{tensor.inf} infinite"] * (tensor.inf > 0)
    return " and ".join(parts) + f" element{'s' * (tensor.nan + tensor.inf > 1)}"


def _reasons(kind: Literal["jump", "gradient"], cause: Cause, evidence: Evidence) -> str:
    """Say what changed, the cause first, and then what did not."""
    clauses: list[str] = []
    if evidence.inputs is not None and evidence.inputs_changed:
        clauses.append(_input_clause(evidence.inputs))
    if evidence.batch_size is not None and evidence.batch_size_changed:
        size, usual = evidence.batch_size.value, evidence.batch_size.usual
        noun = "sample" if size == 1 else "samples"
        clauses.append(f"the batch had {size:.0f} {noun} instead of {usual:.0f}")
    if (evidence.repeated or 0) >= REPEATED_SHARE:
        clauses.append(f"{evidence.repeated:.0%} of the batch's rows are copies of others")
    if kind == "jump" and evidence.gradient is not None and evidence.gradient_jumped:
        if cause == "batch":
            clauses.append("the gradient jumped with it")
        else:
            clauses.append(f"its gradient was {_times(evidence.gradient.ratio or 1)} as large")
    rate = evidence.learning_rate
    if rate is not None and evidence.learning_rate_changed:
        clause = f"the learning rate was {_times(rate.ratio or 1)} its usual value"
        clauses.insert(0 if cause == "learning_rate" else len(clauses), clause)
    if evidence.loss is not None and evidence.loss_jumped:
        clauses.append(
            f"the loss was {evidence.loss.value:.3g} instead of {evidence.loss.usual:.3g}"
        )
    unchanged = [
        noun
        for noun, known, changed in (
            ("the learning rate", rate, evidence.learning_rate_changed),
            ("the gradient", evidence.gradient, evidence.gradient_jumped or kind == "gradient"),
        )
        if known is not None and not changed
    ]
    sentences = [_and(clauses)] if clauses else []
    if unchanged:
        sentences.append(f"{_and(unchanged)} did not change")
    if evidence.inputs is not None and not evidence.inputs_changed:
        sentences.append("the recorded rows of the batch look as usual")
    if cause == "unexplained":
        sentences.append("nothing that the trace records explains it")
    if kind == "gradient" and evidence.update is not None and evidence.update.ratio is not None:
        moved = _times(evidence.update.ratio)
        sentences.append(f"the optimizer damped it, the parameters moved {moved} their usual size")
    return "; ".join(sentences)


def _input_clause(inputs: InputChange) -> str:
    noun = "the batch's targets" if is_target(inputs.tensor) else "the batch's inputs"
    if inputs.tensor not in (X, Y):
        noun += f" {inputs.tensor}"
    change = inputs.change
    if change.ratio is None:
        return f"{noun} had a mean of {change.value:.3g} instead of {change.usual:.3g}"
    if inputs.property == "size":
        if change.ratio >= 1:
            return f"{noun} were {_times(change.ratio)} as large as usual"
        return f"{noun} were {change.ratio:.2g} of their usual size"
    return f"{noun} had {change.ratio:.3g} times their usual spread"


def _and(clauses: list[str]) -> str:
    if len(clauses) < 2:
        return "".join(clauses)
    return f"{', '.join(clauses[:-1])} and {clauses[-1]}"
