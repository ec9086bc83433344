"""What a rule finds."""

from __future__ import annotations

import dataclasses
from typing import Any, Final, Literal, get_args

from pydantic import TypeAdapter

from steptrace_analyzer.markup import facts_html, table_html

Severity = Literal["error", "warning", "info"]
"""``error``: the training is harmed, as its outcome shows; ``warning``: something is wrong whose
harm the outcome does not show yet; ``info``: worth knowing."""
SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)

CauseKind = Literal[
    "batch",
    "labels",
    "learning_rate",
    "gradient",
    "outside",
    "overflow",
    "data",
    "update",
    "set-up",
    "not known",
]
"""Where a cause lies: the inputs of a batch, its labels, the learning rate, a gradient that jumped
although its batch looks usual, a change of weights that the optimizer did not make, a computation
that left the range of its numbers, the data as a whole, an earlier update, how the model or its
training is set up, or nowhere that the trace shows."""

NOT_KNOWN: Final = "not known: nothing that the trace records explains it"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault, or one fact worth knowing, that a rule found.

    Parameters
    ----------
    rule
        Name of the rule.
    severity
        How bad it is.
    first_step, last_step
        First and last step at which it shows.
    explanation
        What happened, in a sentence.
    tensor
        Kind and path of the tensor where it shows most, ``"updates/dense/kernel"``; None where it
        is of no single tensor.
    unit
        Index of the tensor's output unit (last axis) where it shows most.
    observed, usual, threshold
        The measured number, what it was before, and the number from which on it is a finding, in
        the unit that the rule's documentation names.
    cause, cause_kind
        Why, as far as the trace shows.
    consequence
        What it does to the training.
    remedy
        What practitioners do.
    evidence
        Further numbers, JSON-ready.
    others
        Other tensors at which the same shows, kind and path.
    """

    rule: str
    severity: Severity
    first_step: int
    last_step: int
    explanation: str
    tensor: str | None = None
    unit: int | None = None
    observed: float | None = None
    usual: float | None = None
    threshold: float | None = None
    cause: str = NOT_KNOWN
    cause_kind: CauseKind = "not known"
    consequence: str = ""
    remedy: str = ""
    evidence: dict[str, Any] = dataclasses.field(default_factory=dict)
    others: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """First step at which it shows."""
        return self.first_step

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        fields: dict[str, Any] = TypeAdapter(Finding).dump_python(self, mode="json")
        return fields

    def _repr_html_(self) -> str:
        unit = "" if self.unit is None else f", unit {self.unit}"
        return facts_html(
            [
                ("rule", f"{self.rule} ({self.severity})"),
                ("steps", steps_text(self)),
                ("what", self.explanation),
                ("where", f"{self.tensor}{unit}" if self.tensor else ""),
                ("cause", self.cause),
                ("consequence", self.consequence),
                ("what to do", self.remedy),
            ]
        )


def steps_text(finding: Finding) -> str:
    """Return the steps at which a finding shows: ``"60"`` or ``"60 to 99"``."""
    first, last = finding.first_step, finding.last_step
    return str(first) if first == last else f"{first} to {last}"


class Findings(tuple[Finding, ...]):
    """Findings that a notebook shows as a table; else a tuple."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        rows = [(f.severity, steps_text(f), f.rule, f.explanation, f.remedy) for f in self]
        head = ("severity", "steps", "rule", "what", "what to do")
        return table_html(head, rows) if rows else "<p>nothing unusual found</p>"


@dataclasses.dataclass(frozen=True)
class NotJudged:
    """A rule that a trace does not hold the data for."""

    rule: str
    reason: str
    """One sentence."""


class NotJudgedError(Exception):
    """Raised by a rule whose data the trace does not hold; its text says what is missing."""
