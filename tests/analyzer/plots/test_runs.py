"""Several runs over one axis of steps."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from figure_layout import layout_faults
from plot_traces import make_trace, small_network
from steptrace_analyzer import (
    plot_flow,
    plot_loss,
    plot_parameters,
    plot_ridge,
    plot_runs,
    plot_weights,
    save_figure,
)
from steptrace_analyzer.cli.app import run
from steptrace_schema.errors import TraceError, UnknownNameError

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr


def _run(change: float) -> xr.DataTree:
    arrays = small_network()
    arrays["scalars/loss"] = arrays["scalars/loss"] + change
    return make_trace(arrays)


def test_every_run_has_a_line_and_equal_ones_are_seen() -> None:
    runs = [_run(0.0), _run(0.0), _run(0.5)]
    figure = plot_runs(runs, ["a", "b", "c"], [3])
    loss, *norms = figure.axes
    lines: dict[Any, Any] = {
        line.get_label(): line for line in loss.lines if line.get_label() in ("a", "b", "c")
    }
    for name, trace in zip("abc", runs, strict=True):
        expected = np.asarray(trace["scalars/loss"], dtype=np.float64)
        np.testing.assert_array_equal(lines[name].get_ydata(), expected)
    assert lines["b"].get_linewidth() > lines["a"].get_linewidth()  # below it, as a rim
    assert lines["b"].get_zorder() == lines["a"].get_zorder()
    assert loss.lines.index(lines["b"]) < loss.lines.index(lines["a"])
    assert lines["c"].get_linewidth() == lines["a"].get_linewidth()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]
    gradients = np.asarray(runs[0]["statistics/gradients/values"])
    assert gradients.shape[0] == np.size(norms[0].lines[0].get_ydata())
    assert norms[-1].get_xlabel() == "training step (optimizer updates)"
    assert layout_faults(figure) == []


def test_many_runs_are_told_apart_by_more_than_hue_and_the_rest_is_grey() -> None:
    runs = [_run(0.01 * number) for number in range(26)]
    figure = plot_runs(runs, [f"run {number}" for number in range(26)])
    loss = figure.axes[0]
    named = [line for line in loss.lines if str(line.get_label()).startswith("run")]
    looks = {(line.get_color(), line.get_linestyle()) for line in named}
    assert len(looks) == 25
    assert len(figure.legends[0].get_texts()) == 24
    assert "Grey: 2 more runs" in str(figure.get_supxlabel())
    assert layout_faults(figure) == []


def test_runs_with_nothing_to_draw_are_refused() -> None:
    trace = make_trace({"activations/net/dense/output": np.zeros((2, 3, 5), np.float32)})
    with pytest.raises(UnknownNameError, match="none of the runs has a loss"):
        plot_runs([trace, trace])


def test_runs_of_one_name_are_numbered() -> None:
    figure = plot_runs([_run(0.0), _run(0.1), _run(0.2)], ["a", "b", "a"])
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["a (1)", "b", "a (2)"]


@pytest.mark.parametrize("plot", [plot_loss, plot_ridge, plot_flow, plot_weights])
def test_numbers_near_the_largest_are_drawn(plot: Any, tmp_path: Path) -> None:
    picture = save_figure(plot(_enormous()), tmp_path / "a.png")
    assert picture.stat().st_size > 1000


def test_numbers_that_are_too_large_for_axes_are_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="numbers that are too large for axes"):
        save_figure(plot_parameters(_enormous()), tmp_path / "a.png")


def _enormous() -> xr.DataTree:
    arrays = small_network()
    for key in arrays:
        if key.startswith(("weights/", "gradients/")) or key == "scalars/loss":
            arrays[key] = np.where(arrays[key] > 0, 1.7e308, -1.7e308)
    return make_trace(arrays)


def test_compare_draws_its_runs(
    healthy_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "runs.svg"
    other = tmp_path / "other.zarr"
    shutil.copytree(healthy_path, other)
    assert run(["compare", str(healthy_path), str(other), "-o", str(target)]) == 0
    assert re.search(r"drawn in .*runs\.svg", capsys.readouterr().err)
    assert target.read_text(encoding="utf-8").startswith("<?xml")
