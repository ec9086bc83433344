"""Counting what the diagnosis said of many runs."""

from __future__ import annotations

import dataclasses
from typing import Final

from diagnosis.mutations import MUTATIONS

SERIOUS: Final = ("error", "warning")


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
        The first loss, and the median of the last twenty.
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


def tables(judged: list[Judged]) -> str:
    """Return all tables, as Markdown."""
    usual = {one.program: one for one in judged if one.mutation == "none"}

    def lost(one: Judged) -> bool:
        """Whether a run ended far above where the program ends without a mutation."""
        healthy = usual.get(one.program)
        if healthy is None:
            return False
        gained = healthy.first - healthy.last
        return not one.last < healthy.last + 0.2 * gained

    return "\n\n".join(
        (_sudden(judged), _lasting(judged, lost), _healthy(judged, lost), _rules(judged))
    )


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _of(judged: list[Judged], name: str) -> list[Judged]:
    return [one for one in judged if one.mutation == name]


def _sudden(judged: list[Judged]) -> str:
    names = [name for name, m in MUTATIONS.items() if m.step is not None]
    rows: list[tuple[object, ...]] = []
    groups = [(name, _of(judged, name)) for name in names]
    for name, mine in [*groups, ("all", [one for _, group in groups for one in group])]:
        written = [one for one in mine if one.written]
        rows.append(
            (
                name,
                len(mine),
                sum(one.step for one in mine),
                sum(one.cause for one in mine),
                f"{sum(one.tensor for one in written)} of {len(written)}" if written else "",
            )
        )
    return _table(("sudden fault", "runs", "exact step", "kind of cause", "weight"), rows)


def _lasting(judged: list[Judged], lost: object) -> str:
    names = [n for n, m in MUTATIONS.items() if m.step is None and not m.healthy]
    rows: list[tuple[object, ...]] = []
    groups = [(name, _of(judged, name)) for name in names]
    for name, mine in [*groups, ("all", [one for _, group in groups for one in group])]:
        harmed = [one for one in mine if lost(one)]  # type: ignore[operator]
        rows.append(
            (
                name,
                len(mine),
                sum(one.has("error") for one in mine),
                sum(one.has("warning") and not one.has("error") for one in mine),
                f"{sum(one.has('error') for one in harmed)} of {len(harmed)}",
                sum(one.named for one in mine),
            )
        )
    head = ("lasting fault", "runs", "error", "warning only", "error, of those harmed", "named")
    return _table(head, rows)


def _healthy(judged: list[Judged], lost: object) -> str:
    names = [name for name, m in MUTATIONS.items() if m.healthy]
    rows: list[tuple[object, ...]] = []
    groups = [(name, _of(judged, name)) for name in names]
    for name, mine in [*groups, ("all", [one for _, group in groups for one in group])]:
        learned = [one for one in mine if not lost(one)]  # type: ignore[operator]
        rows.append(
            (
                name,
                len(mine),
                sum(one.has("error") for one in mine),
                sum(one.has(*SERIOUS) for one in mine),
                f"{sum(one.has('error') for one in learned)} of {len(learned)}",
                f"{sum(one.has(*SERIOUS) for one in learned)} of {len(learned)}",
            )
        )
    head = ("healthy", "runs", "error", "error or warning", "error, of those that learn as usual")
    return _table((*head, "error or warning, of those"), rows)


def _rules(judged: list[Judged]) -> str:
    """Return, by rule: runs it is meant for, found there, and serious findings in healthy runs."""
    healthy = [one for one in judged if MUTATIONS[one.mutation].healthy]
    faulty = [one for one in judged if not MUTATIONS[one.mutation].healthy]

    def serious(runs: list[Judged], rule: str) -> int:
        return sum(any(f[0] == rule and f[1] in SERIOUS for f in one.findings) for one in runs)

    found = {f[0] for one in judged for f in one.findings if f[1] in SERIOUS}
    rules = sorted(found | {m.rules[0] for m in MUTATIONS.values() if m.rules})
    rows: list[tuple[object, ...]] = []
    for rule in rules:
        meant = [one for one in faulty if MUTATIONS[one.mutation].rules[0] == rule]
        hits = sum(any(f[0] == rule for f in one.findings) for one in meant)
        right, wrong = serious(faulty, rule), serious(healthy, rule)
        rows.append(
            (
                rule,
                f"{hits} of {len(meant)}" if meant else "",
                right,
                wrong,
                f"{right / (right + wrong):.2f}" if right + wrong else "",
                f"{wrong / len(healthy):.3f}" if healthy else "",
            )
        )
    head = ("rule", "found where meant", "serious, faulty runs", "serious, healthy runs")
    return _table((*head, "precision", "false alarms per healthy run"), rows)
