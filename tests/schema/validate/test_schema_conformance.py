"""Every rule has a case that violates it and nothing unrelated; old traces stay valid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from steptrace_schema.validate import LEVELS, RULES, validate

ROOT = Path(__file__).parents[3]
CASES = ROOT / "schema" / "conformance"
ARCHIVES = ROOT / "tests" / "archives"

ALSO_VIOLATED = {"R7": {"R14"}, "R8": {"R12"}}
"""A renamed group is no longer recorded under its name; an unsigned step has another fill."""


def test_every_rule_has_a_case() -> None:
    assert {path.name for path in (CASES / "invalid").iterdir()} == {*RULES}
    assert all((CASES / "invalid" / rule / "trace.zarr.zip").exists() for rule in RULES)


@pytest.mark.parametrize(
    "case", sorted(CASES.glob("invalid/*/*.zip")), ids=lambda p: f"{p.parent.name}-{p.name}"
)
def test_the_case_of_a_rule_violates_it(case: Path) -> None:
    rule, problems = case.parent.name, validate(case)
    assert {p.rule for p in problems} == {rule} | ALSO_VIOLATED.get(rule, set())
    assert all(p.expected and p.found and p.remedy for p in problems)


@pytest.mark.parametrize("case", sorted(CASES.glob("valid/*.zip")), ids=lambda p: p.name)
@pytest.mark.parametrize("level", LEVELS)
def test_a_valid_case_has_no_problem(case: Path, level: str) -> None:
    assert validate(case, level) == []  # type: ignore[arg-type]


def test_the_valid_case_says_what_it_was_made_of() -> None:
    store = zarr.storage.ZipStore(CASES / "valid" / "dense.zarr.zip", mode="r")
    group = zarr.open_group(store, mode="r")
    kernel = np.asarray(group["weights/dense/kernel"])
    gradient = np.asarray(group["gradients/dense/kernel"])
    assert (kernel[1:] == kernel[:-1] - np.float32(0.5) * gradient).all()
    assert (np.asarray(group["activations/dense/output"]) == kernel[:-1]).all()
    store.close()


def test_levels_look_no_deeper_than_asked() -> None:
    assert validate(CASES / "invalid" / "R18" / "trace.zarr.zip", "hierarchy") == []
    assert validate(CASES / "invalid" / "R9" / "trace.zarr.zip", "attributes") == []


@pytest.mark.parametrize("trace", sorted(ARCHIVES.glob("*/*.zarr*")), ids=lambda p: p.parent.name)
def test_traces_of_every_released_version_are_still_valid(trace: Path) -> None:
    assert validate(trace) == []
