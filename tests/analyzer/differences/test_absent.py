"""A tensor that has no value at some steps is absent there, and differs from nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from steptrace_analyzer import diff, diff_steps
from steptrace_analyzer.differences import compare_with_noise
from steptrace_analyzer.trace.absent import absence_text
from steptrace_schema.format.attributes import TraceAttributes
from steptrace_schema.format.layout import ArraySpec
from steptrace_schema.format.policy import Policy
from steptrace_schema.journal.declaration import Declaration
from steptrace_schema.journal.where import journal_path
from steptrace_schema.journal.writer import JournalWriter
from steptrace_schema.moving.recover import recover
from steptrace_schema.names import REQUIRED_SCALARS
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[..., Path]

STEPS = 6
WHY = "the layer is not called in the training step"
PATHS = ("net/one/output", "net/two/output")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, without: tuple[int, ...], first: float = 0.0) -> Path:
        """Write a trace whose second layer has no output at the steps `without`."""
        path = tmp_path / name
        dims = ("sample", "unit")
        arrays = [
            *(ArraySpec("scalars", name, (), (), "float64") for name in REQUIRED_SCALARS),
            *(ArraySpec("activations", p, dims, (2, 3), "float32", absent=WHY) for p in PATHS),
        ]
        attributes = TraceAttributes(
            run_id=name,
            created="2026-01-01T00:00:00+00:00",
            producer="test",
            policy=Policy(samples=2),
            declared={"activations": PATHS},
        )
        writer = JournalWriter.create(journal_path(path), Declaration(attributes, tuple(arrays)))
        for step in range(STEPS):
            values = np.full((2, 3), step, np.float32)
            record: dict[str, Any] = {f"scalars/{n}": np.array(2.0) for n in REQUIRED_SCALARS}
            record["activations/net/one/output"] = values + np.float32(first)
            if step not in without:
                record["activations/net/two/output"] = values
            writer.append(step, record)
        writer.close("complete", None, attributes)
        recover(path)
        return path

    return write


def test_the_steps_without_a_value_are_said_with_the_reason_that_the_journal_gives(
    write: Write,
) -> None:
    path = write("a.zarr", (0, 1, 4))
    assert validate(path) == []
    (entry,) = read_attributes(path).missing
    assert (entry.path, entry.steps, entry.reason) == ("net/two/output", (0, 1, 4), WHY)
    assert (
        absence_text({0: WHY, 1: WHY, 4: "x"}) == f"no value at steps 0-1 ({WHY}) and at step 4 (x)"
    )


def test_a_step_without_a_value_in_one_run_is_no_difference(write: Write) -> None:
    a, b = write("a.zarr", (4, 5)), write("b.zarr", ())
    result = diff(a, b, names=("a", "b"))
    assert not any(tensor.differs for tensor in result.tensors)
    assert result.divergence is not None
    assert result.divergence.place is None
    (said,) = (m for m in result.mismatches if m.name == "activations/net/two/output")
    assert said.found == f"no value at steps 4-5 ({WHY}) in a"
    assert any(said.found in text for text in result.divergence.not_compared)
    # Four of six rows of the one, six of the other and of the scalars that both have.
    two = next(t for t in result.tensors if t.path == "net/two/output")
    assert two.elements == 4 * 6
    assert two.non_finite_a == 0


def test_rows_that_neither_run_has_are_left_out_and_others_still_differ(write: Write) -> None:
    a, b = write("a.zarr", (2,)), write("b.zarr", (2,), first=1.0)
    same = diff(a, write("c.zarr", (2,)), names=("a", "c"))
    assert same.verdict == "equal"
    assert same.mismatches == ()
    result = diff(a, b, names=("a", "b"))
    assert {tensor.path for tensor in result.tensors if tensor.differs} == {"net/one/output"}


def test_two_steps_of_which_one_has_no_value_are_not_compared(write: Write) -> None:
    path = write("a.zarr", (4,))
    result = diff_steps(path, 3, 4, kinds=["activations"])
    assert [tensor.path for tensor in result.tensors] == ["net/one/output"]
    assert [(m.name, m.found) for m in result.not_compared] == [
        ("activations/net/two/output", f"no value at step 4 ({WHY})")
    ]


def test_noise_is_measured_where_every_run_has_a_value(write: Write) -> None:
    a, b = write("a.zarr", (0, 1, 2)), write("b.zarr", (0,))
    repeats = [write("r1.zarr", (5,)), write("r2.zarr", ())]
    found = compare_with_noise(a, b, repeats, kinds=["activations"])
    assert (found.verdict, found.tensors) == ("equal", 2)
    moved = write("moved.zarr", (1,), 0.5)
    found = compare_with_noise(a, moved, repeats, kinds=["activations"])
    assert (found.verdict, found.tensor, found.step) == ("differs", f"activations/{PATHS[0]}", 0)
