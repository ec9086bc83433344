"""Runs are compared at the steps, and in the layers, that belong together."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from steptrace_analyzer.cli import app
from steptrace_analyzer.differences import (
    compare_ranks,
    diff,
    fingerprint,
    first_divergence,
)
from steptrace_analyzer.differences.align import find_shift
from steptrace_analyzer.differences.matching import Matching
from steptrace_analyzer.trace.open import open_trace
from steptrace_schema.errors import NotATraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CUT = 20
"""The step at which a run of 60 steps is resumed."""


@pytest.fixture
def resumed(make_run: Any, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the healthy run from step 20 on, its steps counted from 0."""

    def build(name: str = "resumed", fault: int | None = None) -> Path:
        class Resumed(make_run):  # type: ignore[misc]
            def records(self) -> Iterator[tuple[int, Any]]:
                for step, arrays in super().records():
                    if step == 0:
                        static = {"probe/x": arrays["probe/x"]}
                    if step < CUT:
                        continue
                    own = {**arrays, **(static if step == CUT else {})}
                    if step == fault:
                        own["scalars/loss"] = own["scalars/loss"] + np.float32(1)
                    yield step - CUT, own

        path: Path = Resumed().write(tmp_path / f"{name}.zarr")
        return path

    return build


def without_digests(path: Path, target: Path) -> Path:
    shutil.copytree(path, target)
    for folder in (target / "statistics").glob("*/digests"):
        shutil.rmtree(folder)
    root = json.loads((target / "zarr.json").read_text())
    root.pop("consolidated_metadata")
    root["attributes"]["steptrace"]["version"] = "1.1"
    (target / "zarr.json").write_text(json.dumps(root))
    return target


def test_a_resumed_run_is_found_where_it_continues(
    healthy_path: Path, resumed: Callable[..., Path]
) -> None:
    result = diff(healthy_path, resumed(), align=True, kinds=("weights", "gradients", "inputs"))
    assert result.verdict == "equal"
    assert result.divergence is not None
    assert result.divergence.recognised[0] == (
        "step t of the first run is step t - 20 of the second: 41 steps have equal weights so"
    )
    assert result.divergence.steps == "20-60"
    assert result.coverage.share == pytest.approx(41 / 61, abs=0.01)
    assert all(tensor.differing == 0 for tensor in result.tensors)
    back = diff(resumed("again"), healthy_path, align=True, kinds=("weights",))
    assert (back.verdict, back.steps) == ("equal", tuple(range(41)))


def test_a_fault_after_a_resumption_is_found_at_its_step(
    healthy_path: Path, resumed: Callable[..., Path]
) -> None:
    result = diff(healthy_path, resumed(fault=33), align=True)
    place = result.divergence.place if result.divergence is not None else None
    assert place is not None
    # The numbers of epoch and batch are the same, as they come from the records.
    assert (place.step, place.name) == (33, "scalars/loss")


def test_samples_and_losses_align_runs_whose_weights_never_agree(
    healthy_path: Path, resumed: Callable[..., Path], tmp_path: Path
) -> None:
    a, b = open_trace(healthy_path), open_trace(resumed())
    for kind, by in (("weights", "weights"), ("inputs", "samples"), ("scalars", "loss")):
        found = find_shift(a, b, Matching())
        assert found is not None
        assert (found.shift, found.by, found.matched) == (-CUT, by, 41 if by == "weights" else 40)
        for tree in (a, b):
            if kind != "scalars":
                del tree.children["statistics"][kind]
                del tree[kind]


def test_traces_without_digests_and_fingerprints_are_aligned_too(
    healthy_path: Path, resumed: Callable[..., Path], tmp_path: Path
) -> None:
    path = resumed()
    old = [without_digests(p, tmp_path / f"{n}.zarr") for n, p in enumerate((healthy_path, path))]
    opened = open_trace(old[0]), open_trace(old[1])
    for a, b in (opened, (fingerprint(healthy_path), fingerprint(path))):
        found = find_shift(a, b, Matching())
        assert found is not None
        assert (found.shift, found.by) == (-CUT, "weights")


def test_runs_that_have_nothing_equal_are_compared_by_the_numbers_of_their_steps(
    healthy_path: Path, write_run: Callable[..., Path]
) -> None:
    result = diff(healthy_path, write_run(seed=1), align=True)
    assert result.divergence is not None
    assert "steps are compared by their numbers" in result.divergence.recognised[0]
    assert result.divergence.place is not None
    assert result.divergence.place.step == 0


def test_weights_that_never_change_align_nothing(write_run: Callable[..., Path]) -> None:
    still = open_trace(write_run(learning_rate=0.0))
    found = find_shift(still, open_trace(write_run(learning_rate=0.0)), Matching())
    assert found is not None
    assert (found.shift, found.by, found.matched) == (0, "samples", 60)


def test_every_tenth_step_is_compared_where_both_have_it(
    healthy_path: Path, make_run: Any, tmp_path: Path
) -> None:
    class Tenth(make_run):  # type: ignore[misc]
        def records(self) -> Iterator[tuple[int, Any]]:
            for step, arrays in super().records():
                if step % 10 == 0:
                    yield step, arrays

    path = Tenth().write(tmp_path / "tenth.zarr")
    result = diff(healthy_path, path)
    assert (result.verdict, result.steps) == ("equal", (0, 10, 20, 30, 40, 50, 60))
    assert result.coverage.share == pytest.approx(0.1, abs=0.01)
    assert app.run(["diff", str(healthy_path), str(path)]) == 0
    faulty = Tenth(learning_rates={31: 0.06}).write(tmp_path / "faulty.zarr")
    place = first_divergence(healthy_path, faulty).place
    assert place is not None
    assert (place.step, place.name) == (40, "weights/sequential/dense/kernel")


def renamed_run(make_run: Any, path: Path, head: str) -> Path:
    """Write the healthy run with its last layer under another name."""

    class Renamed(make_run):  # type: ignore[misc]
        def records(self) -> Iterator[tuple[int, Any]]:
            for step, arrays in super().records():
                yield step, {key.replace("dense_1", head): value for key, value in arrays.items()}

        def attributes(self) -> Any:
            text = super().attributes().model_dump_json().replace("dense_1", head)
            return type(super().attributes()).model_validate_json(text)

    written: Path = Renamed().write(path)
    return written


def test_the_whole_table_takes_renamed_layers_for_the_same(
    capsys: pytest.CaptureFixture[str], healthy_path: Path, make_run: Any, tmp_path: Path
) -> None:
    other = renamed_run(make_run, tmp_path / "b.zarr", "head")
    for renamed in (None, {"sequential/dense_1": "sequential/head"}):
        result = diff(healthy_path, other, renamed=renamed)
        assert (result.verdict, result.mismatches, len(result.tensors)) == ("equal", (), 25)
        assert result.divergence is not None
        (match,) = result.divergence.renamed
        assert (match.b, match.how) == (
            "sequential/head",
            "given" if renamed else "order and shape",
        )
    option = ["--map", "sequential/dense_1=sequential/head"]
    assert app.run(["diff", str(healthy_path), str(other), *option]) == 0
    assert "equal: 25 tensors" in capsys.readouterr().out
    assert app.run(["diff", str(healthy_path), str(other), "--align"]) == 0
    out = capsys.readouterr().out
    assert "step t of the first run is step t + 0 of the second: 61 steps have equal weights" in out
    assert "renamed layers, matched in order: sequential/dense_1 is sequential/head" in out


@pytest.fixture
def folder(make_run: Any, tmp_path: Path) -> Path:
    """Return a folder with the traces of three processes, the last with other weights from 7 on."""

    class Rank(make_run):  # type: ignore[misc]
        def records(self) -> Iterator[tuple[int, Any]]:
            for step, arrays in super().records():
                own = dict(arrays)
                if self.status_reason is not None and step >= 7:
                    own["weights/sequential/dense/bias"] = own["weights/sequential/dense/bias"] + 1
                yield step, own

    root = tmp_path / "job.zarr"
    root.mkdir()
    for rank, reason in enumerate((None, None, "stopped")):
        status = "complete" if reason is None else "incomplete"
        Rank(steps=12, status=status, status_reason=reason).write(root / f"worker-{rank}.zarr")
    return root


def test_the_processes_of_a_run_are_compared(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    found = compare_ranks(folder)
    (parting,) = found.partings
    assert (parting.place.step, parting.place.name) == (7, "weights/sequential/dense/bias")
    assert (parting.first, parting.second) == (("rank 0", "rank 1"), ("rank 2",))
    assert app.run(["diff", str(folder), "--ranks"]) == 1
    assert "rank 0, rank 1 | rank 2\n  step 7, weights, weights/sequential/dense/bias" in (
        capsys.readouterr().out
    )
    shutil.rmtree(folder / "worker-2.zarr")
    assert app.run(["diff", str(folder), "--ranks"]) == 0
    assert capsys.readouterr().out == "equal: rank 0, rank 1\n"


def test_a_folder_of_one_process_is_refused(healthy_path: Path) -> None:
    with pytest.raises(NotATraceError, match=r"0 traces worker-<rank>\.zarr, and ranks are"):
        compare_ranks(healthy_path)
