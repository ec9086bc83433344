"""Counting what the diagnosis said of many runs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from diagnosis.mutations_all import MUTATIONS
from steptrace_analyzer.anomalies.rules import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from diagnosis.mutations import Mutation

SERIOUS: Final = ("error", "warning")
_LOST: Final = 0.2  # of what the program gains without a mutation


@dataclasses.dataclass(frozen=True)
class Judged:
    """What the diagnosis said of one run, and how its loss went.

    Parameters
    ----------
    program, mutation
        What was run.
    written
        End of the path of the weight that was written to; empty where none was.
    stories
        Severity and first step of each.
    findings
        Rule, severity, first step, kind of cause, and tensor of each.
    first, last
        The first loss of the task, without penalties, and the median of the last twenty.
    """

    program: str
    mutation: str
    written: str
    stories: list[tuple[str, int]]
    findings: list[tuple[str, str, int, str, str]]
    first: float
    last: float

    def has(self, *severities: str) -> bool:
        """Whether any story is of one of these severities."""
        return any(severity in severities for severity, _ in self.stories)

    @property
    def step(self) -> bool:
        """Whether a serious story begins at the step of the mutation."""
        wanted = MUTATIONS[self.mutation].step
        return any(s in SERIOUS and step == wanted for s, step in self.stories)

    @property
    def cause(self) -> bool:
        """Whether a finding at that step names the kind of cause."""
        mutation = MUTATIONS[self.mutation]
        return any(f[2] == mutation.step and f[3] == mutation.cause for f in self.findings)

    @property
    def tensor(self) -> bool:
        """Whether a finding at that step names the weight that was written to."""
        at = (f for f in self.findings if f[2] == MUTATIONS[self.mutation].step)
        return any(f[4].endswith(self.written) for f in at)

    @property
    def named(self) -> bool:
        """Whether one of the rules that are meant for the mutation found something."""
        return any(f[0] in MUTATIONS[self.mutation].rules for f in self.findings)


def tables(sets: Mapping[str, list[Judged]]) -> str:
    """Return all tables as Markdown, with columns for each set of runs.

    Parameters
    ----------
    sets
        Name of the set, such as ``unseen``, to its runs.
    """
    texts = []
    for title, heads, count in (
        ("sudden fault", ("runs", "exact step", "cause", "weight"), _sudden),
        ("lasting fault", ("runs", "error", "warning only", "error, of harmed", "named"), _lasting),
        (
            "healthy",
            ("runs", "error", "warning", "error, of learning", "warning, of these"),
            _healthy,
        ),
        ("rule", ("found", "serious, faulty", "serious, healthy", "per healthy run"), _rules),
    ):
        columns = {name: count(judged) for name, judged in sets.items()}
        names = dict.fromkeys(name for column in columns.values() for name in column)
        head = [title, *(f"{name}: {one}" for name in columns for one in heads)]
        none: list[object] = [""] * len(heads)
        lines: list[list[object]] = [[*head], ["---"] * len(head)]
        for name in names:
            cells = (cell for column in columns.values() for cell in column.get(name, none))
            lines.append([name, *cells])
        texts.append("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))
    return "\n\n".join(texts)


def _lost(judged: list[Judged]) -> Callable[[Judged], bool]:
    """Return what says whether a run ended far above where its program ends without a mutation."""
    usual = {one.program: one for one in judged if one.mutation == "none"}

    def lost(one: Judged) -> bool:
        healthy = usual.get(one.program)
        if healthy is None:
            return False
        return not one.last < healthy.last + _LOST * (healthy.first - healthy.last)

    return lost


def _groups(judged: list[Judged], wanted: Callable[[Mutation], bool]) -> dict[str, list[Judged]]:
    """Return the runs of each mutation of a kind, and all of them."""
    groups = {
        name: [one for one in judged if one.mutation == name]
        for name, mutation in MUTATIONS.items()
        if wanted(mutation)
    }
    return groups | {"all": [one for group in groups.values() for one in group]}


def _part(runs: list[Judged], wanted: Callable[[Judged], bool]) -> str:
    return f"{sum(wanted(one) for one in runs)} of {len(runs)}" if runs else ""


def _sudden(judged: list[Judged]) -> dict[str, list[object]]:
    return {
        name: [
            len(runs),
            sum(one.step for one in runs),
            sum(one.cause for one in runs),
            _part([one for one in runs if one.written], lambda one: one.tensor),
        ]
        for name, runs in _groups(judged, lambda m: m.step is not None).items()
    }


def _lasting(judged: list[Judged]) -> dict[str, list[object]]:
    lost = _lost(judged)

    def harmed(one: Judged) -> bool:
        """Whether a run is harmed by what its rule calls an error."""
        return lost(one) and MUTATIONS[one.mutation].severity == "error"

    return {
        name: [
            len(runs),
            sum(one.has("error") for one in runs),
            sum(one.has("warning") and not one.has("error") for one in runs),
            _part([one for one in runs if harmed(one)], lambda one: one.has("error")),
            sum(one.named for one in runs),
        ]
        for name, runs in _groups(judged, lambda m: m.step is None and not m.healthy).items()
    }


def _healthy(judged: list[Judged]) -> dict[str, list[object]]:
    lost = _lost(judged)
    counted: dict[str, list[object]] = {}
    for name, runs in _groups(judged, lambda m: m.healthy).items():
        learning = [one for one in runs if not lost(one)]
        counted[name] = [
            len(runs),
            sum(one.has("error") for one in runs),
            sum(one.has(*SERIOUS) for one in runs),
            _part(learning, lambda one: one.has("error")),
            _part(learning, lambda one: one.has(*SERIOUS)),
        ]
    return counted


def _rules(judged: list[Judged]) -> dict[str, list[object]]:
    """Count by rule: found where it is meant, and serious findings in faulty and healthy runs."""
    healthy = [one for one in judged if MUTATIONS[one.mutation].healthy]
    faulty = [one for one in judged if not MUTATIONS[one.mutation].healthy]

    def serious(runs: list[Judged], rule: str) -> int:
        return sum(any(f[0] == rule and f[1] in SERIOUS for f in one.findings) for one in runs)

    counted: dict[str, list[object]] = {}
    for rule in BUILT_IN:
        meant = [one for one in faulty if MUTATIONS[one.mutation].rules[0] == rule]
        hits = sum(any(f[0] == rule for f in one.findings) for one in meant)
        right, wrong = serious(faulty, rule), serious(healthy, rule)
        if meant or right or wrong:
            found = f"{hits} of {len(meant)}" if meant else ""
            each = f"{wrong / len(healthy):.3f}" if healthy else ""
            counted[rule] = [found, right, wrong, each]
    return counted
