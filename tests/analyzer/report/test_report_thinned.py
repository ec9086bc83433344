"""Views and the report of a trace that keeps few steps' tensors, and has a jump between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from steptrace_analyzer.plots.gradients import gradients_data, plot_gradients
from steptrace_analyzer.plots.loss import loss_data, plot_loss
from steptrace_analyzer.plots.steps import sudden_findings
from steptrace_analyzer.report import write_report
from steptrace_analyzer.trace.open import open_trace
from steptrace_schema.format.retention import last

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import xarray as xr


@pytest.fixture(params=["retain", "disk_limit"])
def thinned(request: pytest.FixtureRequest, write_run: Callable[..., Path]) -> xr.DataTree:
    spike = {"input_scale": {43: 40.0}}
    if request.param == "retain":
        return open_trace(write_run(steps=80, shard_steps=4, retain=last(10), **spike))
    return open_trace(write_run(steps=120, shard_steps=8, disk_limit=1_000_000, **spike))


def test_views_over_all_steps_mark_a_jump_whose_tensors_are_gone(thinned: xr.DataTree) -> None:
    found = sudden_findings(thinned)
    assert loss_data(thinned, found).anomaly_steps == (43,)
    assert gradients_data(thinned, found).anomaly_steps == (43,)
    plot_loss(thinned, found)
    plot_gradients(thinned, found)


def test_the_report_tells_of_a_jump_whose_tensors_are_gone(
    thinned: xr.DataTree, tmp_path: Path
) -> None:
    page = write_report(thinned, tmp_path / "page.html").read_text()
    assert "At step 43 the update of sequential/dense/kernel was" in page
    steps = thinned["updates"].coords["step"].values.tolist()
    assert f"Show figures at step {steps[0]}" in page
    assert "Show figures at step 43" not in page
    assert "Not drawn" not in page
