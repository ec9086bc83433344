"""Which steps of a run are worth a figure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.diagnosis import diagnose

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from steptrace_analyzer.anomalies.finding import Finding

_SUDDEN: Final = ("non_finite", "update_jump", "gradient_jump")


def sudden_findings(trace: xr.DataTree) -> tuple[Finding, ...]:
    """Return what figures mark: values that are not finite, and jumps, in the order of their steps.

    Parameters
    ----------
    trace
        An opened trace.
    """
    return sudden_among(diagnose(trace, rules=_SUDDEN).findings)


def sudden_among(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return those of all findings that figures mark, in the order of their steps."""
    found = (each for each in findings if each.rule in _SUDDEN)
    return tuple(sorted(found, key=lambda each: each.step))


def by_size(found: Sequence[Finding]) -> list[Finding]:
    """Return findings, the biggest first: non-finite values, then jumps by their z-score."""
    return sorted(found, key=_size, reverse=True)


def key_steps(recorded: Sequence[int], found: Sequence[Finding], most: int) -> list[int]:
    """Return the recorded steps that tell a run's story: first, last, and those of findings.

    Parameters
    ----------
    recorded
        Ascending steps to choose from.
    found
        What was found in the run.
    most
        How many steps at most, two or more. What the findings leave free is spread evenly.

    Returns
    -------
    list of int
        Ascending.

    Examples
    --------
    >>> key_steps(range(101), [], 3)
    [0, 50, 100]
    """
    if len(recorded) <= most:
        return list(recorded)
    chosen = dict.fromkeys((recorded[0], recorded[-1]))
    for each in by_size(found):
        if each.step in recorded and len(chosen) < most:
            chosen[each.step] = None
    for place in np.linspace(0, len(recorded) - 1, most).round().astype(int):
        if len(chosen) < most:
            chosen[recorded[place]] = None
    return sorted(chosen)


def _size(found: Finding) -> float:
    return math.inf if found.rule == "non_finite" else float(found.evidence.get("z", 0.0))
