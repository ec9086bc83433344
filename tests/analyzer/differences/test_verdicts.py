"""The verdict of a comparison and its coverage are true, also of traces that hardly fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from steptrace_analyzer.cli import app
from steptrace_analyzer.differences import diff, diff_steps, first_divergence, write_fingerprint
from steptrace_analyzer.trace.open import open_trace, trace_attributes
from steptrace_analyzer.trace.select import tensor_paths
from steptrace_schema.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Callable

ARCHIVES = Path(__file__).parents[2] / "archives"
STEPS, LAST = 60, 61
"""Rows of the healthy run, and of its weights, which have one more."""


def changed(path: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """Copy a trace and change its root attributes."""
    shutil.copytree(path, target)
    root = json.loads((target / "zarr.json").read_text())
    root.pop("consolidated_metadata")
    change(root["attributes"]["steptrace"])
    (target / "zarr.json").write_text(json.dumps(root))
    return target


def damaged(path: Path, target: Path, array: str) -> Path:
    """Copy a trace and cut every chunk of one array short."""
    shutil.copytree(path, target)
    chunks = [*(target / array).glob("c*")]
    assert chunks
    for chunk in chunks:
        chunk.write_bytes(chunk.read_bytes()[:50])
    return target


def test_equal_runs_are_compared_in_all_that_they_declare(healthy_path: Path) -> None:
    result = diff(healthy_path, healthy_path)
    assert (result.verdict, result.coverage.share) == ("equal", 1.0)
    # 4 weights; 4 gradients, 2 outputs, 2 of their gradients, 4 inputs, 2 of the probe, and 6
    # numbers; the probe's input, which has no steps.
    assert result.coverage.declared == 4 * LAST + (4 + 2 + 2 + 4 + 2 + 6) * STEPS + 1
    assert result.coverage.by_digest == result.coverage.declared


def test_what_one_run_declares_and_does_not_have_lowers_the_coverage(
    healthy_path: Path, tmp_path: Path
) -> None:
    def declare(attributes: Any) -> None:
        attributes["declared"]["weights"].append("sequential/lost/kernel")

    other = changed(healthy_path, tmp_path / "b.zarr", declare)
    found = first_divergence(healthy_path, other)
    whole = first_divergence(healthy_path, healthy_path).coverage.declared
    assert found.verdict == "equal"
    assert found.coverage.share == whole / (whole + LAST)


def test_steps_of_one_run_alone_lower_the_coverage(
    healthy_path: Path, write_run: Callable[..., Path]
) -> None:
    result = diff(healthy_path, write_run(steps=30))
    assert result.verdict == "equal"
    assert result.coverage.share == pytest.approx(0.5, abs=0.01)
    assert "30" in {m.found for m in result.mismatches if m.name == "scalars"}.pop()
    assert "are equal in what both have" in str(result)


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_traces_of_earlier_formats_are_compared_by_what_they_keep(
    version: str, tmp_path: Path
) -> None:
    path = ARCHIVES / version / "digits.zarr.zip"
    result, quick = diff(path, path), diff(path, path, whole=False)
    assert (result.verdict, result.coverage) == (quick.verdict, quick.coverage)
    tree, attributes = open_trace(path), trace_attributes(path)
    # Tensors that were not kept have no digest either: of these only the statistics are equal.
    expected = 0
    for kind, rows in attributes.statistics_recorded.items():
        names = tree[f"statistics/{kind}"].coords["tensor"].to_numpy().tolist()
        kept = set(tensor_paths(tree, kind))
        for name in names:
            expected += rows - (attributes.steps_recorded[kind] if name in kept else 0)
    assert result.coverage.by_statistics == expected
    assert result.verdict == ("inconclusive" if expected else "equal")
    assert bool(expected) == (version != "1.0")
    golden = tmp_path / "golden.fp.json"
    write_fingerprint(path, golden)
    assert diff(golden, path).verdict == "equal"


def test_a_run_and_the_same_run_of_an_earlier_format_are_equal(
    healthy_path: Path, tmp_path: Path
) -> None:
    def earlier(attributes: Any) -> None:
        attributes["version"] = "1.1"

    old = changed(healthy_path, tmp_path / "old.zarr", earlier)
    for folder in (old / "statistics").glob("*/digests"):
        shutil.rmtree(folder)
    for sides in ((healthy_path, old), (old, healthy_path)):
        found = first_divergence(*sides)
        assert found.verdict == "equal"
        assert found.coverage.by_statistics == 0
        assert "other format of the trace" in found.recognised[0]


def test_a_trace_of_a_later_major_format_is_refused(healthy_path: Path, tmp_path: Path) -> None:
    later = changed(healthy_path, tmp_path / "b.zarr", lambda a: a.update(version="2.0"))
    with pytest.raises(TraceError, match=r"is a trace of format 2\.0"):
        diff(healthy_path, later)


def test_runs_without_a_common_tensor_are_inconclusive(healthy_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.zarr"
    shutil.copytree(healthy_path, other)
    shutil.rmtree(other / "weights")
    shutil.rmtree(other / "statistics" / "weights")
    root = json.loads((other / "zarr.json").read_text())
    root.pop("consolidated_metadata")
    (other / "zarr.json").write_text(json.dumps(root))
    for a, b, said in (
        (healthy_path, other, "the second run has no tensor of what is compared"),
        (other, healthy_path, "the first run has no tensor of what is compared"),
        (other, other, "neither run has a tensor of what is compared"),
    ):
        result = diff(a, b, kinds=("weights",))
        assert (result.verdict, result.coverage.share) == ("inconclusive", 0)
        assert result.divergence is not None
        assert said in result.divergence.not_compared


def test_runs_without_a_common_step_are_inconclusive(healthy_path: Path) -> None:
    result = diff(healthy_path, healthy_path, shift=1000)
    assert (result.verdict, result.coverage.by_digest) == ("inconclusive", 1)  # the probe's input
    assert result.divergence is not None
    assert any("no step is recorded in both" in text for text in result.divergence.not_compared)


def test_a_damaged_tensor_is_named_and_the_others_are_compared(
    healthy_path: Path, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    array = "gradients/sequential/dense/kernel"
    result = diff(healthy_path, damaged(healthy_path, tmp_path / "cut.zarr", array))
    assert result.verdict == "inconclusive"
    (skipped,) = [m for m in result.not_compared if m.name == "damaged"]
    assert f"array '{array}' cannot be decoded in rows 0 to 59" in skipped.found
    assert sum(tensor.elements > 0 for tensor in result.tensors) == len(result.tensors) - 1
    # What differs elsewhere differs, whatever is damaged.
    other = damaged(write_run(learning_rates={20: 0.1}), tmp_path / "other.zarr", array)
    assert diff(healthy_path, other).verdict == "differs"


def test_only_the_damaged_steps_of_a_tensor_are_skipped(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    a = make_run(steps=24, shard_steps=8).write(tmp_path / "a.zarr")
    b = tmp_path / "b.zarr"
    shutil.copytree(a, b)
    chunks = sorted((b / "weights/sequential/dense/kernel").glob("c*"))
    assert len(chunks) == 4
    chunks[1].write_bytes(chunks[1].read_bytes()[:20])
    result = diff(a, b, kinds=("weights",))
    kernel = next(t for t in result.tensors if t.name == "weights/sequential/dense/kernel")
    assert kernel.elements == (25 - 8) * 30
    assert (result.verdict, kernel.differing) == ("inconclusive", 0)
    (skipped,) = result.not_compared
    assert "rows 8 to 15" in skipped.found


def test_two_steps_with_a_damaged_tensor_are_inconclusive(
    healthy_path: Path, tmp_path: Path
) -> None:
    cut = damaged(healthy_path, tmp_path / "cut.zarr", "weights/sequential/dense/bias")
    result = diff_steps(cut, 10, 10, kinds=("weights",))
    assert (result.verdict, result.coverage.share) == ("inconclusive", 0.75)
    assert "weights/sequential/dense/bias" in result.not_compared[0].found
    assert diff_steps(cut, 10, 20, kinds=("weights",)).verdict == "differs"


def test_a_fingerprint_is_compared_with_a_trace_in_either_place(
    healthy_path: Path, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    golden = tmp_path / "golden.fp.json"
    write_fingerprint(healthy_path, golden)
    other = write_run(learning_rates={20: 0.1})
    for sides in ((golden, other), (other, str(golden))):
        result = diff(*sides)
        assert result.verdict == "differs"
        assert result.first_difference is not None
        assert (result.first_difference.step, result.first_difference.path) == (20, "learning_rate")
    assert diff(golden, healthy_path).verdict == "equal"
    assert app.run(["diff", str(golden), str(healthy_path)]) == 0
    assert app.run(["diff", str(other), str(golden), "--json"]) == 1


def test_a_golden_file_of_another_model_is_inconclusive(healthy_path: Path, tmp_path: Path) -> None:
    golden = tmp_path / "golden.fp.json"
    write_fingerprint(healthy_path, golden)
    text = golden.read_text().replace("sequential/", "other/").replace('"Dense"', '"Conv2D"')
    golden.write_text(text)
    result = diff(golden, healthy_path)
    assert result.verdict == "inconclusive"
    assert result.divergence is not None
    assert result.divergence.recognised[0].startswith("other model: the two have no layer in comm")
    assert result.coverage.share < 1
    assert app.run(["diff", str(healthy_path), "--golden", str(golden)]) == 2


def test_a_layer_of_another_shape_is_listed_and_its_model_called_other(
    healthy_path: Path, make_run: Any, tmp_path: Path
) -> None:
    class Wider(make_run):  # type: ignore[misc]
        def records(self) -> Any:
            for step, arrays in super().records():
                copied = dict(arrays)
                for key in [k for k in copied if k.endswith("dense_1/kernel")]:
                    copied[key] = np.pad(copied[key], ((0, 0), (0, 1)))
                yield step, copied

    found = first_divergence(healthy_path, Wider().write(tmp_path / "b.zarr"))
    assert (found.verdict, found.place) == ("inconclusive", None)
    shapes = "shapes (5, 3) and (5, 4)"
    assert f"weights/sequential/dense_1/kernel: {shapes}" in found.not_compared
    assert f"gradients/sequential/dense_1/kernel: {shapes}" in found.not_compared


def test_an_address_of_a_file_is_taken_for_a_second_trace(
    capsys: pytest.CaptureFixture[str], healthy_path: Path
) -> None:
    address = healthy_path.as_uri()
    assert address.startswith("file:///")
    assert app.run(["diff", str(healthy_path), address]) == 0
    assert "are equal: 25 tensors" in capsys.readouterr().out
    assert app.run(["diff", str(healthy_path), address.replace("///", "//elsewhere/")]) == 2
    assert "an address of a file names no other host" in capsys.readouterr().err
    assert diff(address, healthy_path).verdict == "equal"


def test_ulp_is_a_tolerance_of_the_whole_comparison(
    healthy_path: Path, make_run: Any, tmp_path: Path
) -> None:
    class Rounded(make_run):  # type: ignore[misc]
        def records(self) -> Any:
            for step, arrays in super().records():
                copied = dict(arrays)
                for key in [k for k in copied if k.startswith("gradients/")]:
                    copied[key] = np.nextafter(copied[key], np.float32(np.inf))
                yield step, copied

    other = Rounded().write(tmp_path / "b.zarr")
    assert diff(healthy_path, other).verdict == "rounding-sized"
    within = diff(healthy_path, other, ulp=1)
    assert (within.verdict, any(tensor.differs for tensor in within.tensors)) == ("equal", False)
    assert app.run(["diff", str(healthy_path), str(other), "--ulp", "1"]) == 0
    assert app.run(["diff", str(healthy_path), str(other), "--fail-on", "differs"]) == 0
    assert app.run(["diff", str(healthy_path), str(other)]) == 1
