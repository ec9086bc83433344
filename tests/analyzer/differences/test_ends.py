"""What two models end with is compared too, where no step left it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_analyzer import diff, open_trace
from steptrace_schema.names import ATTRIBUTES_KEY

if TYPE_CHECKING:
    import xarray as xr

TRACE = Path(__file__).parents[3] / "schema" / "conformance" / "valid" / "final-1.3.zarr.zip"


def _changed(**final: Any) -> xr.DataTree:
    """Return the trace with other things said of its end."""
    trace = open_trace(TRACE)
    said = copy.deepcopy(trace.attrs[ATTRIBUTES_KEY])
    said["final"] = None if final.get("gone") else {**said["final"], **final}
    trace.attrs[ATTRIBUTES_KEY] = said
    return trace


def test_the_same_end_is_equal() -> None:
    found = diff(TRACE, open_trace(TRACE))
    (end,) = (each for each in found.tensors if each.kind == "final")
    assert (found.verdict, end.path, end.elements, end.differing) == ("equal", "dense/kernel", 4, 0)


def test_another_end_differs_though_every_step_is_equal() -> None:
    other = open_trace(TRACE)
    other["final/dense/kernel"] = other["final/dense/kernel"] + np.array([[0, 0], [0, 0.25]])
    found = diff(TRACE, other)
    (end,) = (each for each in found.tensors if each.differs)
    assert (end.name, end.differing, end.max_abs, end.first_step) == (
        "final/dense/kernel",
        1,
        0.25,
        None,
    )
    assert found.divergence is not None
    assert (found.divergence.verdict, found.verdict) == ("equal", "differs")
    assert "first in final/dense/kernel" in str(found)
    assert diff(TRACE, other, atol=0.3).verdict == "equal"
    assert diff(TRACE, other, kinds=["gradients"]).verdict == "equal"


def test_an_end_that_one_run_does_not_say_is_named() -> None:
    found = diff(TRACE, _changed(gone=True))
    assert found.verdict == "equal"
    (left,) = found.not_compared
    assert (left.name, "does not say which weights" in left.found) == ("final", True)


def test_ends_of_runs_of_other_lengths_are_not_compared() -> None:
    found = diff(TRACE, _changed(step=99))
    assert [each for each in found.tensors if each.kind == "final"] == []
    assert found.not_compared == ()
