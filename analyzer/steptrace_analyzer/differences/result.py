"""What a comparison found."""

# Annotations are evaluated: pydantic makes the JSON, and its schema, of them.

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from steptrace_analyzer.differences.coverage import Coverage
from steptrace_analyzer.differences.divergence_result import Divergence, Verdict
from steptrace_analyzer.differences.noise import NoiseResult
from steptrace_analyzer.trace.select import format_steps
from steptrace_schema.json_ready import as_json
from steptrace_schema.names import STEP, TENSOR, Kind

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd
    import xarray as xr

ComparedKind: TypeAlias = Kind | Literal["final"]
"""A kind of data, or the weights that a model ended with where no step left them."""


@dataclasses.dataclass(frozen=True)
class TensorDiff:
    """How one tensor differs between the two sides, over all compared steps.

    Absolute and relative differences, cosine and ULPs are over the elements that are finite on
    both sides, and None for digests, which are no numbers. The relative difference is
    ``|a - b| / max(|a|, |b|)``, 0 where both are 0.
    """

    kind: ComparedKind
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
    """None for a tensor that has no steps, which comes before all steps or, as what a model ended
    with, after them; and between two steps."""
    kind: ComparedKind
    path: str


@dataclasses.dataclass(frozen=True)
class StepDistances:
    """How far one tensor is from the other at each step that both have."""

    kind: Kind
    path: str
    steps: "npt.NDArray[np.int64]"
    distance: "npt.NDArray[np.float64]"
    """Root mean square of the difference; infinite where an element is finite on one side alone."""
    size: "npt.NDArray[np.float64]"
    """Root mean square of the first."""

    @property
    def name(self) -> str:
        """Kind and path, ``"weights/dense/kernel"``."""
        return f"{self.kind}/{self.path}"


@dataclasses.dataclass(frozen=True)
class DiffDocument:
    """A :class:`DiffResult` as JSON has it."""

    a: str
    b: str
    verdict: Verdict
    differs: bool
    """Whether anything at all is different, what only one side has included."""
    coverage: Coverage
    steps: str
    """Written compactly: ``"0-3, 7"``."""
    first_difference: FirstDifference | None
    tensors: tuple[TensorDiff, ...]
    mismatches: tuple[Mismatch, ...]
    not_compared: tuple[Mismatch, ...]
    divergence: Divergence | None
    """Where two runs part and why; None between two steps of one."""
    noise: NoiseResult | None
    """How far the two are apart in relation to noise; None where none was given."""


@dataclasses.dataclass(frozen=True)
class DiffResult:
    """What two traces, or two steps of one, have in common and what not."""

    a: str
    b: str
    verdict: Verdict
    coverage: Coverage
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
    noise: NoiseResult | None = None
    """How far the two are apart in relation to noise; None where none was given."""
    by_step: tuple[StepDistances, ...] = dataclasses.field(default=(), repr=False, compare=False)
    """How far each tensor of two runs is from the other, step by step."""

    @property
    def differs(self) -> bool:
        """Whether anything at all is different."""
        return (
            bool(self.mismatches)
            or any(tensor.differs for tensor in self.tensors)
            or (not self.tensors and self.divergence is not None and self.divergence.differs)
        )

    @property
    def steps_text(self) -> str:
        """The steps that were compared, written compactly."""
        if self.steps or self.divergence is None:
            return format_steps(self.steps)
        return self.divergence.steps

    def document(self) -> DiffDocument:
        """Return what ``steptrace diff --json`` prints."""
        return DiffDocument(
            a=self.a,
            b=self.b,
            verdict=self.verdict,
            differs=self.differs,
            coverage=self.coverage,
            steps=self.steps_text,
            first_difference=self.first_difference,
            tensors=self.tensors,
            mismatches=self.mismatches,
            not_compared=self.not_compared,
            divergence=self.divergence,
            noise=self.noise,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        fields: dict[str, Any] = as_json(self.document())
        return fields

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row for each tensor that was compared."""
        import pandas as pd

        return pd.DataFrame([dataclasses.asdict(tensor) for tensor in self.tensors])

    def to_xarray(self) -> "xr.Dataset":
        """Return how far each tensor is from the other, by tensor and step.

        Returns
        -------
        xarray.Dataset
            ``distance`` and ``size``, float64, dims (tensor, step): the root mean squares of the
            difference and of the first. NaN where a tensor has no value at a step.

        Examples
        --------
        >>> diff("a.zarr", "b.zarr").to_xarray()["distance"].max("step")  # doctest: +SKIP
        """
        import xarray as xr

        no_steps = np.empty(0, np.int64)
        steps = np.unique(np.concatenate([no_steps, *(each.steps for each in self.by_step)]))
        shape = (len(self.by_step), len(steps))
        distance, size = np.full(shape, np.nan), np.full(shape, np.nan)
        for row, each in enumerate(self.by_step):
            at = np.searchsorted(steps, each.steps)
            distance[row, at], size[row, at] = each.distance, each.size
        dims = (TENSOR, STEP)
        return xr.Dataset(
            {"distance": (dims, distance), "size": (dims, size)},
            coords={TENSOR: [each.name for each in self.by_step], STEP: steps},
            attrs={"a": self.a, "b": self.b, "verdict": self.verdict},
        )

    def __str__(self) -> str:
        """Say whether the two differ, and where first."""
        both = f"{self.a} and {self.b}"
        if self.verdict == "equal":
            count = f"{len(self.tensors)} tensors" if self.tensors else str(self.coverage)
            only = " in what both have" if self.mismatches else ""
            return f"{both} are equal{only}: {count}"
        said = {
            "rounding-sized": f"{both} differ by the size of rounding",
            "within noise": f"{both} differ within noise",
            "differs": f"{both} differ",
            "inconclusive": f"{both}: inconclusive",
        }[self.verdict]
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
        said = [f"{self} (verdict: {self.verdict}, {self.coverage})"]
        if self.divergence is not None:
            said += [text for text in (self.divergence.origin, *self.divergence.recognised) if text]
        return "".join(f"<p>{escape(text)}</p>" for text in said) + table
