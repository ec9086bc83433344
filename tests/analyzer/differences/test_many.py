"""Many runs: which are equal, and the tree of where they part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from steptrace_analyzer.cli import app
from steptrace_analyzer.differences import compare_runs
from steptrace_schema.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_runs_part_into_groups_step_by_step(write_run: Callable[..., Path]) -> None:
    runs = {
        "a": write_run(),
        "late": write_run(learning_rates={40: 0.1}),
        "early": write_run(learning_rates={20: 0.1}),
        "again": write_run(),
        "both": write_run(learning_rates={20: 0.1, 30: 0.2}),
        "adam": write_run(adam=True),
    }
    found = compare_runs([*runs.values()], [*runs])
    parted = [(p.place.step, p.place.name, p.first, p.second) for p in found.partings]
    assert parted == [
        (1, "weights/sequential/dense/kernel", ("a", "late", "early", "again", "both"), ("adam",)),
        (20, "scalars/learning_rate", ("a", "late", "again"), ("early", "both")),
        (40, "scalars/learning_rate", ("a", "again"), ("late",)),
        (30, "scalars/learning_rate", ("early",), ("both",)),
    ]
    assert sorted(found.equal) == [("a", "again"), ("adam",), ("both",), ("early",), ("late",)]
    (setting,) = found.settings
    assert (setting.name, setting.values) == ("optimizer", (*["SGD"] * 5, "Adam"))
    assert found.to_dict()["partings"][1]["place"]["step"] == 20


def test_one_run_alone_is_refused(healthy_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="at least 2 runs are compared, and 1 given"):
        compare_runs([healthy_path])


def test_the_command_prints_groups_and_settings(
    capsys: pytest.CaptureFixture[str], write_run: Callable[..., Path]
) -> None:
    a, b, c = str(write_run()), str(write_run(adam=True)), str(write_run(learning_rates={20: 0.1}))
    assert app.run(["compare", a, a]) == 0
    assert capsys.readouterr().out == f"equal: {a}, {a}\n"
    assert app.run(["compare", a, b, c]) == 1
    out = capsys.readouterr().out
    assert f"{a}, {c} | {b}\n  step 1, weights" in out
    assert f"{a} | {c}\n  step 20, update, scalars/learning_rate" in out
    assert "Adam" in out
