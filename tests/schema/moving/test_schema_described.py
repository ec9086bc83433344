"""Weights that are only described: the recorder has their values, and the trace what follows."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from journals import Arrays, attributes, random_steps
from steptrace_analyzer.trace.open import open_trace
from steptrace_schema.format.layout import ArraySpec, split_key
from steptrace_schema.format.policy import Policy
from steptrace_schema.journal.declaration import Declaration
from steptrace_schema.journal.where import journal_path
from steptrace_schema.journal.writer import JournalWriter
from steptrace_schema.moving.journal_mover import JournalMover
from steptrace_schema.moving.recover import recover
from steptrace_schema.statistics.describe import compute_statistics
from steptrace_schema.validate import validate

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

STEPS = 21
KEY = "weights/dense/kernel"


@pytest.fixture(name="steps")
def _steps() -> list[tuple[int, Arrays]]:
    return random_steps(STEPS)


def _writer(store: Path, steps: list[tuple[int, Arrays]]) -> JournalWriter:
    specs = [
        ArraySpec(*split_key(key), tuple(f"axis_{i}" for i in range(v.ndim)), v.shape, str(v.dtype))
        for key, v in steps[0][1].items()
    ]
    specs = [dataclasses.replace(s, statistics_only=s.kind == "weights") for s in specs]
    own = attributes(policy=Policy(statistics_only=("weights",)), shard_steps=8)
    return JournalWriter.create(journal_path(store), Declaration(own, tuple(specs)))


def _expected(steps: list[tuple[int, Arrays]]) -> npt.NDArray[np.float64]:
    rows = [arrays[KEY] for _, arrays in steps]
    return np.array([compute_statistics(b - a) for a, b in itertools.pairwise(rows)])


def test_updates_are_described_however_often_the_recorder_begins_again(
    tmp_path: Path, steps: list[tuple[int, Arrays]]
) -> None:
    path = tmp_path / "run.zarr"
    writer = _writer(path, steps)
    for step, arrays in steps[:-1]:
        writer.append(step, arrays)
        JournalMover(journal_path(path), path).move_ready()
    writer.append(*steps[-1])
    writer.close("complete", None, JournalMover(journal_path(path), path)._attributes())
    JournalMover(journal_path(path), path).finish("complete", None)
    assert [problem for problem in validate(path) if "scalars/" not in problem.path] == []
    found = open_trace(path)["statistics/updates"].to_dataset()
    assert found["step"].values.tolist() == list(range(STEPS))
    np.testing.assert_allclose(found["values"].values[:, 0], _expected(steps), rtol=1e-12)
    assert KEY not in open_trace(path)


@pytest.mark.parametrize("moved", [0, 8, 16])
def test_a_run_that_goes_on_is_described_up_to_its_last_record(
    tmp_path: Path, steps: list[tuple[int, Arrays]], moved: int
) -> None:
    path = tmp_path / "run.zarr"
    writer = _writer(path, steps)
    for step, arrays in steps[:moved]:
        writer.append(step, arrays)
    if moved:
        JournalMover(journal_path(path), path).move_ready()
    for step, arrays in steps[moved:-1]:
        writer.append(step, arrays)
    found = open_trace(path)
    weights = found["statistics/weights"].to_dataset()
    assert weights["step"].values.tolist() == list(range(STEPS))
    expected = [compute_statistics(arrays[KEY]) for _, arrays in steps[:-1]]
    np.testing.assert_allclose(weights["values"].values[:, 0], expected, rtol=1e-12)
    updates = found["statistics/updates"].to_dataset()
    # The values of what was moved are gone, so that the update between is not known yet.
    known = [step for step in range(STEPS - 1) if step != moved - 1]
    assert updates["step"].values.tolist() == known
    np.testing.assert_allclose(updates["values"].values[:, 0], _expected(steps)[known], rtol=1e-12)
    del writer
    recover(path)
    updates = open_trace(path)["statistics/updates"].to_dataset()
    assert updates["step"].values.tolist() == list(range(STEPS - 1))
    np.testing.assert_allclose(updates["values"].values[:, 0], _expected(steps)[:-1], rtol=1e-12)
