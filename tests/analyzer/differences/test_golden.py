"""Fingerprints of runs in one file, and runs compared with them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from steptrace_analyzer.cli import app
from steptrace_analyzer.differences import (
    fingerprint,
    first_divergence,
    read_fingerprint,
    write_fingerprint,
)
from steptrace_analyzer.trace.open import open_trace
from steptrace_schema.errors import NotATraceError
from steptrace_schema.statistics.digests import row_digests

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def golden(healthy_path: Path, tmp_path: Path) -> Path:
    path = tmp_path / "golden.fp.json"
    write_fingerprint(healthy_path, path)
    return path


def test_a_fingerprint_holds_the_digests_of_all_values(healthy_path: Path, golden: Path) -> None:
    tree, trace = read_fingerprint(golden), open_trace(healthy_path)
    kernel = row_digests(np.asarray(trace["weights/sequential/dense/kernel"]))
    loss = row_digests(np.asarray(trace["scalars/loss"]))
    weights, scalars = tree["statistics/weights/digests"], tree["statistics/scalars/digests"]
    assert (np.asarray(weights.sel(tensor="sequential/dense/kernel")) == kernel).all()
    assert (np.asarray(scalars.sel(tensor="loss")) == loss).all()
    assert "wall_time" not in scalars.coords["tensor"]
    assert golden.stat().st_size < 40_000


def test_a_run_is_equal_to_its_own_fingerprint(healthy_path: Path, golden: Path) -> None:
    found = first_divergence(read_fingerprint(golden), healthy_path)
    assert (found.verdict, found.coverage.share, found.not_compared) == ("equal", 1, ())


def test_another_run_parts_from_a_fingerprint_where_it_parts_from_the_trace(
    golden: Path, healthy_path: Path, write_run: Callable[..., Path]
) -> None:
    for fields in ({"learning_rates": {20: 0.1}}, {"hidden_rate": {40: 1.5}}):
        other = write_run(**fields)
        by_file = first_divergence(read_fingerprint(golden), other)
        by_trace = first_divergence(healthy_path, other)
        assert by_file.place is not None
        assert by_trace.place is not None
        assert (by_file.place.step, by_file.place.name) == (
            by_trace.place.step,
            by_trace.place.name,
        )
        assert len(by_file.differing) == len(by_trace.differing)


def test_digests_are_computed_where_a_trace_has_none(
    healthy_path: Path, golden: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old.zarr"
    shutil.copytree(healthy_path, old)
    for folder in (old / "statistics").glob("*/digests"):
        shutil.rmtree(folder)
    root = json.loads((old / "zarr.json").read_text())
    root.pop("consolidated_metadata")
    root["attributes"]["steptrace"]["version"] = "1.1"
    (old / "zarr.json").write_text(json.dumps(root))
    computed, recorded = fingerprint(old), read_fingerprint(golden)
    for kind in recorded["statistics"].children:
        group = f"statistics/{kind}"
        assert computed[group].dataset.equals(recorded[group].dataset), kind
    assert first_divergence(read_fingerprint(golden), old).verdict == "equal"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[1]",
        '{"format": "steptrace fingerprint 2"}',
        '{"format": "steptrace fingerprint 1", "name": "a", "attributes": {}, "kinds": {}}',
    ],
)
def test_a_file_that_is_no_fingerprint_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(NotATraceError, match="is no fingerprint of a run"):
        read_fingerprint(path)


def test_digests_that_do_not_fit_their_tensors_are_refused(golden: Path) -> None:
    fields: Any = json.loads(golden.read_text())
    fields["kinds"]["weights"]["steps"].pop()
    golden.write_text(json.dumps(fields))
    with pytest.raises(NotATraceError, match="is no fingerprint of a run"):
        read_fingerprint(golden)


def test_a_trace_where_a_fingerprint_is_wanted_is_refused(healthy_path: Path) -> None:
    with pytest.raises(NotATraceError, match="is a folder; give a file that 'steptrace finger"):
        read_fingerprint(healthy_path)


def test_the_fingerprint_of_another_model_is_inconclusive(golden: Path, healthy_path: Path) -> None:
    text = golden.read_text().replace("sequential/", "other/").replace('"Dense"', '"Conv2D"')
    golden.write_text(text)
    found = first_divergence(read_fingerprint(golden), healthy_path, kinds=("weights",))
    assert found.verdict == "inconclusive"
    assert any("other model" in text for text in found.recognised)


def test_the_commands_write_and_compare_a_fingerprint(
    capsys: pytest.CaptureFixture[str],
    healthy_path: Path,
    write_run: Callable[..., Path],
    tmp_path: Path,
) -> None:
    path = tmp_path / "golden"  # whatever it is called
    assert app.run(["fingerprint", str(healthy_path), "-o", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert app.run(["diff", str(healthy_path), "--golden", str(path)]) == 0
    assert capsys.readouterr().out == f"{path} and {healthy_path}: equal, steps 0-60\n"
    other = write_run(learning_rates={20: 0.1})
    assert app.run(["diff", str(other), "--golden", str(path)]) == 1
    assert "step 20, update, scalars/learning_rate" in capsys.readouterr().out
