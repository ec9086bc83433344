"""What each command prints with ``--json``."""

# Annotations are evaluated: pydantic makes the JSON, and its schema, of them.

import dataclasses
from typing import Final

from steptrace_analyzer.anomalies.diagnosis import Diagnosis
from steptrace_analyzer.anomalies.finding import Finding, NotJudged, Severity
from steptrace_analyzer.differences.many import ComparedRuns
from steptrace_analyzer.differences.result import DiffDocument
from steptrace_analyzer.trace.info_document import InfoDocument
from steptrace_schema.validate.coverage import Coverage
from steptrace_schema.validate.rules import Level, Problem


@dataclasses.dataclass(frozen=True)
class ValidationDocument:
    """What ``steptrace validate`` found."""

    path: str
    level: Level
    problems: tuple[Problem, ...]
    coverage: tuple[Coverage, ...]
    """What became of all that is declared; empty where the trace cannot be opened."""


@dataclasses.dataclass(frozen=True)
class FindingReference:
    """Which finding is part of a story."""

    rule: str
    tensor: str | None
    first_step: int


@dataclasses.dataclass(frozen=True)
class StoryDocument:
    """A cause and its effects."""

    severity: Severity
    step: int
    text: str
    findings: tuple[FindingReference, ...]


@dataclasses.dataclass(frozen=True)
class AnomaliesDocument:
    """What ``steptrace anomalies`` found."""

    path: str
    findings: tuple[Finding, ...]
    not_judged: tuple[NotJudged, ...]
    stories: tuple[StoryDocument, ...]


def anomalies_document(path: str, found: Diagnosis) -> AnomaliesDocument:
    """Return what ``steptrace anomalies --json`` prints."""
    stories = tuple(
        StoryDocument(
            severity=story.severity,
            step=story.step,
            text=story.text,
            findings=tuple(
                FindingReference(finding.rule, finding.tensor, finding.first_step)
                for finding in story.findings
            ),
        )
        for story in found.stories
    )
    return AnomaliesDocument(path, found.findings, found.not_judged, stories)


DOCUMENTS: Final[dict[str, type]] = {
    "info": InfoDocument,
    "validate": ValidationDocument,
    "diff": DiffDocument,
    "compare": ComparedRuns,
    "anomalies": AnomaliesDocument,
}
"""By command."""
