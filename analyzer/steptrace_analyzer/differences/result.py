"""What a comparison found."""

# Annotations are evaluated: pydantic makes the JSON, and its schema, of them.

import dataclasses
from typing import TYPE_CHECKING, Any

from steptrace_analyzer.differences.divergence_result import Divergence
from steptrace_analyzer.differences.noise import NoiseResult
from steptrace_analyzer.trace.select import format_steps
from steptrace_schema.json_ready import as_json
from steptrace_schema.names import Kind

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True)
class TensorDiff:
    """How one tensor differs between the two sides, over all compared steps.

    Absolute and relative differences, cosine and ULPs are over the elements that are finite on
    both sides, and None for digests, which are no numbers. The relative difference is
    ``|a - b| / max(|a|, |b|)``, 0 where both are 0.
    """

    kind: Kind
    path: str
    elements: int
    differing: int
    """Elements that differ by more than the tolerance, or where only one side is finite."""
    max_abs: float | None
    mean_abs: float | None
    max_rel: float | None
    mean_rel: float | None
    cosine: float | None
    """None where a side is all zero."""
    max_ulp: int | None
    """Representable numbers between the two, at most; None for integers and mixed dtypes."""
    first_step: int | None
    """First step that differs; None where none does, or the tensor has no steps."""
    worst_step: int | None
    """Step of the largest absolute difference."""
    steps_differing: int
    non_finite_a: int
    non_finite_b: int

    @property
    def differs(self) -> bool:
        """Whether any element differs by more than the tolerance."""
        return self.differing > 0

    @property
    def name(self) -> str:
        """Kind and path, ``"weights/dense/kernel"``."""
        return f"{self.kind}/{self.path}"


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """Something that only one side has, or that cannot be compared element by element."""

    name: str
    """``kind`` or ``kind/path``."""
    found: str
    """One clause: ``"only in a.zarr"``, ``"shape (3, 4) in a.zarr and (3, 5) in b.zarr"``."""


@dataclasses.dataclass(frozen=True)
class FirstDifference:
    """Where the two sides part: the first step, and in it the first tensor in dataflow order."""

    step: int | None
    """None for a tensor that has no steps, which comes before all steps, and between two steps."""
    kind: Kind
    path: str


@dataclasses.dataclass(frozen=True)
class DiffDocument:
    """A :class:`DiffResult` as JSON has it."""

    a: str
    b: str
    differs: bool
    steps: str
    """Written compactly: ``"0-3, 7"``."""
    first_difference: FirstDifference | None
    tensors: tuple[TensorDiff, ...]
    mismatches: tuple[Mismatch, ...]
    not_compared: tuple[Mismatch, ...]
    divergence: Divergence | None
    """Where two runs part and why; None between two steps of one."""
    noise: NoiseResult | None = None
    """How the two compare with repeats of one run; None without repeats."""


def document_of(found: Divergence) -> DiffDocument:
    """Return what ``steptrace diff --first --json`` prints, where no table of tensors is made."""
    place = found.place
    return DiffDocument(
        a=found.a,
        b=found.b,
        differs=found.differs,
        steps=found.steps,
        first_difference=None
        if place is None
        else FirstDifference(place.step, place.kind, place.path),
        tensors=(),
        mismatches=(),
        not_compared=(),
        divergence=found,
    )


def document_of_noise(found: NoiseResult) -> DiffDocument:
    """Return what ``steptrace diff --noise --json`` prints."""
    return DiffDocument(
        a=found.a,
        b=found.b,
        differs=found.verdict == "differs",
        steps=found.steps,
        first_difference=None,
        tensors=(),
        mismatches=(),
        not_compared=(),
        divergence=None,
        noise=found,
    )


@dataclasses.dataclass(frozen=True)
class DiffResult:
    """What two traces, or two steps of one, have in common and what not."""

    a: str
    b: str
    tensors: tuple[TensorDiff, ...]
    """Every compared tensor, in dataflow order, equal ones included."""
    mismatches: tuple[Mismatch, ...]
    not_compared: tuple[Mismatch, ...]
    """What was left out, and why; no difference."""
    steps: tuple[int, ...]
    """The training steps that were compared."""
    first_difference: FirstDifference | None
    divergence: Divergence | None = None
    """Where two runs part and why; None between two steps of one."""

    @property
    def differs(self) -> bool:
        """Whether anything at all is different."""
        return bool(self.mismatches) or any(tensor.differs for tensor in self.tensors)

    def document(self) -> DiffDocument:
        """Return what ``steptrace diff --json`` prints."""
        return DiffDocument(
            a=self.a,
            b=self.b,
            differs=self.differs,
            steps=format_steps(self.steps),
            first_difference=self.first_difference,
            tensors=self.tensors,
            mismatches=self.mismatches,
            not_compared=self.not_compared,
            divergence=self.divergence,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        fields: dict[str, Any] = as_json(self.document())
        return fields

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row for each tensor that was compared."""
        import pandas as pd

        return pd.DataFrame([dataclasses.asdict(tensor) for tensor in self.tensors])

    def __str__(self) -> str:
        """Say whether the two differ, and where first."""
        if not self.differs:
            return f"{self.a} and {self.b} are equal: {len(self.tensors)} tensors"
        said = f"{self.a} and {self.b} differ"
        if self.first_difference is not None:
            first = self.first_difference
            at = "" if first.step is None else f" at step {first.step}"
            said += f", first in {first.kind}/{first.path}{at}"
        return said

    def _repr_html_(self) -> str:
        from html import escape

        differing = [tensor for tensor in self.tensors if tensor.differs]
        shown = dataclasses.replace(self, tensors=tuple(differing))
        table = shown.to_dataframe().to_html(index=False, escape=True) if differing else ""
        origin = self.divergence.origin if self.divergence is not None else None
        said = [str(self), *([origin] if origin else [])]
        return "".join(f"<p>{escape(text)}</p>" for text in said) + table
