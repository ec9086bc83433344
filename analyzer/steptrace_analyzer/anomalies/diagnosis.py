"""Running the rules over a trace."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from steptrace_analyzer.anomalies.finding import SEVERITIES, Finding, NotJudged, NotJudgedError
from steptrace_analyzer.anomalies.registry import rules as chosen_rules
from steptrace_analyzer.anomalies.signals import Signals
from steptrace_analyzer.anomalies.stories import Story, tell
from steptrace_analyzer.markup import text_html
from steptrace_analyzer.trace.open import opened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from steptrace_analyzer.trace.open import TraceOrPath


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What all rules found in a trace, and which could not be judged."""

    findings: tuple[Finding, ...]
    """In the order of their stories, causes before effects."""
    not_judged: tuple[NotJudged, ...]
    stories: tuple[Story, ...]
    """The findings folded into chains of cause and effect, the worst first."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        fields: dict[str, Any] = TypeAdapter(Diagnosis).dump_python(self, mode="json")
        fields["stories"] = [story.to_dict() for story in self.stories]
        return fields

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row for each finding.

        Examples
        --------
        >>> diagnose(trace).to_dataframe().groupby("rule").size()  # doctest: +SKIP
        """
        import pandas as pd

        columns = [field.name for field in dataclasses.fields(Finding)]
        return pd.DataFrame(
            [[getattr(found, name) for name in columns] for found in self.findings],
            columns=columns,
        )

    def _repr_html_(self) -> str:
        told = "".join(story._repr_html_() for story in self.stories)
        unjudged = ", ".join(rule.rule for rule in self.not_judged)
        return (told or "<p>nothing unusual found</p>") + (
            f"<p>not judged, for want of data: {text_html(unjudged)}</p>" if unjudged else ""
        )

    def __str__(self) -> str:
        """Return the stories as text."""
        return "\n\n".join(story.text for story in self.stories) or "nothing unusual found"


def diagnose(
    trace: TraceOrPath,
    *,
    rules: Sequence[str] | None = None,
    settings: Mapping[str, float] | None = None,
    first: int | None = None,
    last: int | None = None,
) -> Diagnosis:
    """Judge a trace by rules: what went wrong, where, since when, and why.

    Parameters
    ----------
    trace
        A trace, or its path.
    rules
        Names of the rules to run; all, where None.
    settings
        Thresholds that replace the rules' own: ``{"update_jump.z": 6.0}``.
    first, last
        Steps between which findings are wanted, both included. The history before `first` is
        read all the same.

    Returns
    -------
    Diagnosis
        Findings, stories, and the rules whose data the trace does not hold.

    Raises
    ------
    UnknownNameError
        If there is no such rule or threshold.

    Examples
    --------
    >>> for story in diagnose("run.zarr").stories:  # doctest: +SKIP
    ...     print(story.text)
    """
    signals = Signals(opened(trace))
    found: list[Finding] = []
    not_judged: list[NotJudged] = []
    # A trace may hold any numbers: what overflows or is not finite is judged, not warned of.
    with np.errstate(all="ignore"):
        for rule in chosen_rules(rules, settings):
            try:
                found += rule.function(signals, **rule.thresholds)
            except NotJudgedError as reason:
                not_judged.append(NotJudged(rule.name, str(reason)))
    inside = [
        finding
        for finding in found
        if (first is None or finding.last_step >= first)
        and (last is None or finding.first_step <= last)
    ]
    stories = tell(signals, inside)
    findings = tuple(finding for story in stories for finding in story.findings)
    return Diagnosis(findings, tuple(not_judged), stories)


def worst(findings: Sequence[Finding]) -> int:
    """Return the place in `SEVERITIES` of the worst finding; beyond the last, where none is."""
    return min((SEVERITIES.index(f.severity) for f in findings), default=len(SEVERITIES))
