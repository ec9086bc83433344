"""Where two runs part, as a result."""

# Annotations are evaluated: pydantic makes the JSON, and its schema, of them.

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from steptrace_analyzer.differences.coverage import Coverage
from steptrace_analyzer.differences.matching import MatchedLayer
from steptrace_analyzer.differences.phases import Phase
from steptrace_schema.json_ready import as_json
from steptrace_schema.names import Kind

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["equal", "rounding-sized", "within noise", "differs", "inconclusive"]
"""What a comparison of two runs comes to; *within noise* is said only where noise was given."""


@dataclasses.dataclass(frozen=True)
class Distance:
    """How far one tensor is from the other at one step.

    Numbers are over the elements that are finite on both sides, in float64; None for digests and
    ids, which are no magnitudes.
    """

    elements: int
    differing: int
    """Elements whose bits differ."""
    max_abs: float | None
    max_rel: float | None
    """Of the largest magnitude in the tensor."""
    max_ulp: int | None
    """Representable numbers between the two, at most; None for integers and mixed dtypes."""
    in_last_place: float | None
    """`max_abs` in units of the last place of the largest magnitude; None as for `max_ulp`."""
    non_finite_a: int
    non_finite_b: int

    @property
    def share(self) -> float:
        """Share of the elements that differ."""
        return self.differing / self.elements if self.elements else 0.0


@dataclasses.dataclass(frozen=True)
class Place:
    """Where in a run a difference is."""

    step: int | None
    """Of the first run; None for a tensor without steps."""
    phase: Phase
    kind: Kind
    path: str
    """As the first run names it."""
    unit: int | None = None
    """Position of the largest difference along the last dimension."""
    units: int | None = None
    """Units that differ."""
    sample: int | None = None
    """Position of the first sample that differs in the batch."""
    index: tuple[int, ...] | None = None
    """Position of the largest difference in the tensor."""

    @property
    def name(self) -> str:
        """Kind and path, ``"weights/dense/kernel"``."""
        return f"{self.kind}/{self.path}"


@dataclasses.dataclass(frozen=True)
class StepDifference:
    """A tensor that differs at the step at which two runs part."""

    place: Place
    distance: Distance | None
    """None where its values are not recorded at the step."""


@dataclasses.dataclass(frozen=True)
class Divergence:
    """Where two runs part, and what is known of why."""

    a: str
    b: str
    verdict: Verdict
    place: Place | None
    """None where nothing differs."""
    origin: str | None
    """What was computed there, and from what; one or two sentences."""
    recognised: tuple[str, ...]
    """What explains a difference before any number does."""
    differing: tuple[StepDifference, ...]
    """Everything that differs at that step, in the order of execution."""
    steps: str
    """The steps that both have, written compactly; those after the first that differs were not
    compared."""
    coverage: Coverage
    shift: int
    """Step t of the first run was compared with step t + shift of the second."""
    renamed: tuple[MatchedLayer, ...]
    """Layers with another path in the second; all others were matched by their path."""
    not_compared: tuple[str, ...]
    """What was left out, and why; one sentence each."""

    @property
    def differs(self) -> bool:
        """Whether anything is different."""
        return self.place is not None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        fields: dict[str, Any] = as_json(self)
        return fields

    def to_dataframe(self) -> "pd.DataFrame":
        """Return what differs at the step, one row a tensor."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "step": each.place.step,
                    "phase": each.place.phase,
                    "tensor": each.place.name,
                    "unit": each.place.unit,
                    **({} if each.distance is None else dataclasses.asdict(each.distance)),
                }
                for each in self.differing
            ]
        )

    def _repr_html_(self) -> str:
        from html import escape

        said = [f"{self.a} and {self.b}: {self.verdict}", self.origin or "", *self.recognised]
        table = self.to_dataframe().to_html(index=False, escape=True) if self.differing else ""
        return "".join(f"<p>{escape(text)}</p>" for text in said if text) + table
