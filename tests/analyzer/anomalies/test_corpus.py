"""The corpus that says how often the diagnosis is right reaches every rule."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from steptrace_analyzer.anomalies.rules import BUILT_IN

if TYPE_CHECKING:
    import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def test_every_rule_is_meant_for_a_fault_of_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from diagnosis.mutations_all import MUTATIONS

    faults = {name: each for name, each in MUTATIONS.items() if not each.healthy}
    assert {each.rules[0] for each in faults.values()} == set(BUILT_IN)
    assert {rule for each in faults.values() for rule in each.rules} <= set(BUILT_IN)
    assert all((each.step is None) == (each.cause is None) for each in faults.values())
    assert len(MUTATIONS) - len(faults) >= 10
