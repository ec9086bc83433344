"""Findings as chains of cause and effect."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from steptrace_analyzer.anomalies.finding import SEVERITIES, Finding, Severity, steps_text
from steptrace_analyzer.anomalies.rules import BUILT_IN
from steptrace_analyzer.markup import table_html
from steptrace_analyzer.trace.dataflow import Dataflow
from steptrace_schema.names import KINDS, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steptrace_analyzer.anomalies.signals import Signals

MOST_STORIES: Final = 10
"""Most stories on one screen."""
REACH: Final = 20
"""Steps after which an effect is no longer ascribed to a sudden cause before it."""

SUDDEN: Final = frozenset({"non_finite", "update_jump", "gradient_jump", "bad_batch", "outside"})
"""Rules whose findings happen at a step."""
_ORDER: Final = tuple(BUILT_IN)
"""Which of several findings at the same step comes first: causes before their effects."""
_OUTCOMES: Final = frozenset({"diverging", "not_learning"})
"""Rules that say what came of the run in the end."""
_FACTS: Final = frozenset(
    {"suspect_samples", "overfitting", "repeated_inputs", "frozen", "broken_off"}
    | {"plateau", "class_imbalance"}
)
"""Rules whose findings are never effects of others."""


@dataclasses.dataclass(frozen=True)
class Story:
    """A cause and its effects, in the order of time."""

    findings: tuple[Finding, ...]
    """The cause first."""

    @property
    def head(self) -> Finding:
        """The cause."""
        return self.findings[0]

    @property
    def step(self) -> int:
        """First step of the cause."""
        return self.head.first_step

    @property
    def severity(self) -> Severity:
        """The worst of its findings."""
        return min((f.severity for f in self.findings), key=SEVERITIES.index)

    @property
    def text(self) -> str:
        """The whole chain, a sentence for each finding, with the cause's remedy."""
        head, *effects = self.findings
        lines = [f"{self.severity}, {_when(head)}: {head.explanation}"]
        lines += [f"  -> {effect.explanation}" for effect in effects]
        if head.remedy:
            lines.append(f"  what to do: {head.remedy}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [(steps_text(f), f.rule, f.explanation) for f in self.findings]
        caption = f"{self.severity}. {'What to do: ' if self.head.remedy else ''}{self.head.remedy}"
        return table_html(("steps", "rule", "cause, then effects"), rows, caption)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; findings by their rule, tensor and first step."""
        return {
            "severity": self.severity,
            "step": self.step,
            "text": self.text,
            "findings": [
                {"rule": f.rule, "tensor": f.tensor, "first_step": f.first_step}
                for f in self.findings
            ],
        }


def tell(signals: Signals, findings: Sequence[Finding]) -> tuple[Story, ...]:
    """Fold findings into stories, the worst first.

    A finding is an effect of an earlier story whose head happened at a step, where it begins
    within `REACH` steps after that. Findings that hold from the start on are one story, the
    one first that comes first in the table of rules. What came of the run in the end is the last
    effect of the story that can have led to it.
    """
    order = Dataflow.of(signals.trace)

    def moment(finding: Finding) -> tuple[int, int, tuple[int, int]]:
        kind, _, path = (finding.tensor or "").partition("/")
        place = order.rank(_kind(kind), path) if kind in KINDS else (len(KINDS), 0)
        first = _ORDER.index(finding.rule) if finding.rule in _ORDER else len(_ORDER)
        return finding.first_step, first, place

    chains: list[list[Finding]] = []
    outcomes = [finding for finding in findings if finding.rule in _OUTCOMES]
    others = [finding for finding in findings if finding.rule not in _OUTCOMES]
    for finding in [*sorted(others, key=moment), *sorted(outcomes, key=moment)]:
        outcome = finding.rule in _OUTCOMES
        chain = _led_to(chains, finding) if outcome else _cause(chains, finding)
        if chain is None:
            chains.append([finding])
        else:
            chain.append(finding)
    stories = [Story(tuple(chain)) for chain in chains]
    return tuple(sorted(stories, key=_rank))


def _cause(chains: list[list[Finding]], finding: Finding) -> list[Finding] | None:
    """Return the chain that a finding continues, the latest that can have caused it."""
    if finding.rule in _FACTS:
        return None
    for chain in reversed(chains):
        head = chain[0]
        if head.rule in _FACTS:
            continue
        near = 0 <= finding.first_step - head.first_step <= REACH
        if head.rule in SUDDEN and near and not _starts_anew(head, finding):
            return chain
        if head.rule not in SUDDEN and finding.rule not in SUDDEN and near:
            return chain
    return None


def _led_to(chains: list[list[Finding]], finding: Finding) -> list[Finding] | None:
    """Return the chain that led to what came of the run in the end.

    What was lost was lost after the run's best steps; what was never learned was prevented by
    something that holds from the start on, or happened early.
    """
    worth = [
        chain
        for chain in chains
        if chain[0].rule not in _FACTS and any(f.severity != "info" for f in chain)
    ]
    if finding.rule == "diverging":
        after = [c for c in worth if c[0].first_step >= finding.first_step - REACH]
        return min(after, key=lambda c: c[0].first_step, default=None)
    early = [c for c in worth if c[0].first_step <= finding.first_step + REACH]
    return min(early, key=lambda c: c[0].first_step, default=None)


def _starts_anew(head: Finding, finding: Finding) -> bool:
    """Whether a finding has a separate cause, outside what the head has changed."""
    return finding.first_step > head.first_step and finding.cause_kind in (
        "batch",
        "labels",
        "outside",
        "learning_rate",
    )


def _rank(story: Story) -> tuple[int, int]:
    return SEVERITIES.index(story.severity), story.step


def _when(finding: Finding) -> str:
    noun = "step" if finding.first_step == finding.last_step else "steps"
    return f"{noun} {steps_text(finding)}"


def _kind(name: str) -> Kind:
    return next(kind for kind in KINDS if kind == name)
