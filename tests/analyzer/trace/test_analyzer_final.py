"""The weights that a model ended with are read beside the last row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steptrace_analyzer import final_weights, open_trace, unpack
from steptrace_analyzer.cli.app import run
from steptrace_schema.errors import TraceError
from steptrace_schema.moving.resume import reopen
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate

CASES = Path(__file__).parents[3] / "schema" / "conformance" / "valid"
LAST = [[-2, -1], [0, 1]]  # after gradients of 1, 2 and 3, with a rate of 0.5
FIRST = [[0.5, 1.5], [2.5, 3.5]]  # after the first of them


def test_the_final_weights_stand_beside_the_last_row(capsys: pytest.CaptureFixture[str]) -> None:
    path = CASES / "final-1.3.zarr.zip"
    trace = open_trace(path)
    assert np.asarray(trace["weights/dense/kernel"])[-1].tolist() == LAST
    kernel = final_weights(trace)["dense/kernel"]
    assert (kernel.dims, np.asarray(kernel).tolist()) == (("in", "out"), FIRST)
    final = read_attributes(path).final
    assert final is not None
    assert (final.cause, final.same_as) == ("restored", 1)  # found by the digests
    assert run(["info", str(path)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "ends with" in line)
    assert "1 of 1 weights" in line
    assert "before step 1" in line
    assert "stored under 'final' (dense/kernel)" in line


def test_a_trace_that_does_not_say_is_refused_in_a_sentence() -> None:
    with pytest.raises(TraceError, match="does not say which weights"):
        final_weights(CASES / "dense-1.2.zarr.zip")


def test_what_a_resumed_training_replaces_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    unpack(CASES / "final-1.3.zarr.zip", path)
    reopen(path, 2).begin()
    assert read_attributes(path).final is None
    trace = open_trace(path)
    assert "final" not in trace.children
    assert validate(path) == []
