"""``trace.steptrace``: views, findings, layers and one step of an opened trace."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from numpy.testing import assert_array_equal

import steptrace_analyzer
from plot_traces import make_trace, small_layers, small_network
from steptrace_analyzer import accessor, diagnose, open_trace, plots
from steptrace_schema.errors import StepNotRecordedError
from steptrace_schema.format.attributes import Model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOSTILE = "<script>alert(1)</script>"


def test_a_view_is_drawn_as_its_function_draws_it(healthy_path: Path) -> None:
    trace: Any = open_trace(healthy_path)
    figure = trace.steptrace.plot.weights("dense", step=10)
    expected = plots.plot_weights(trace, "dense", step=10)
    assert (
        figure.get_suptitle()
        == expected.get_suptitle()
        == "sequential · step 10 · sequential/dense"
    )
    shown, same = (each.axes[0].images[0].get_array() for each in (figure, expected))
    assert_array_equal(shown, same)


def test_every_plot_function_is_a_view_and_a_public_name() -> None:
    functions = {
        name
        for name in plots.__all__
        if name.startswith("plot_")
        and "trace" in inspect.signature(getattr(plots, name)).parameters
    }
    assert len(functions) >= 12
    assert set(accessor._PLOTS.values()) == functions
    assert functions <= set(steptrace_analyzer.__all__)


def test_an_unknown_view_is_answered_with_those_there_are(healthy_path: Path) -> None:
    trace: Any = open_trace(healthy_path)
    with pytest.raises(AttributeError, match="no view 'weight'; there are activations, flow"):
        trace.steptrace.plot.weight("dense")


def test_findings_are_those_of_the_diagnosis(write_run: Callable[..., Path]) -> None:
    trace: Any = open_trace(write_run(input_scale={37: 100.0}))
    found = trace.steptrace.findings()
    assert found
    assert found == diagnose(trace).findings


def test_a_step_holds_everything_recorded_of_it(healthy_path: Path) -> None:
    trace: Any = open_trace(healthy_path)
    step = trace.steptrace.step(7)
    for path in ("weights/sequential/dense/kernel", "updates/sequential/dense/kernel", "inputs/x"):
        assert "step" not in step[path].dims
        assert_array_equal(step[path], trace[path].sel(step=7))
    assert float(step["scalars/loss"]) == float(trace["scalars/loss"][7])
    assert_array_equal(step["probe/x"], trace["probe/x"])
    assert int(trace.steptrace.step(-1)["scalars"].coords["step"]) == 59


def test_kinds_that_a_step_does_not_have_are_left_out_and_a_step_without_any_is_refused(
    healthy_path: Path,
) -> None:
    trace: Any = open_trace(healthy_path)
    last = trace.steptrace.step(60)  # only the weights after the last step
    assert "weights" in last.children
    assert "gradients" not in last.children
    with pytest.raises(StepNotRecordedError, match="nothing recorded at step 99"):
        trace.steptrace.step(99)


def test_layers_are_those_of_the_root_attributes(healthy_path: Path) -> None:
    trace: Any = open_trace(healthy_path)
    assert [layer.path for layer in trace.steptrace.layers] == [
        "sequential/dense",
        "sequential/dense_1",
    ]


def test_the_table_of_a_notebook_has_no_markup_of_a_trace() -> None:
    model = Model(name=HOSTILE, class_name="M", parameters=1, trainable_parameters=1)
    trace: Any = make_trace(small_network(), layers=small_layers(), model=model)
    html = trace.steptrace._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "steps 0-4" in html
    assert "conv, flatten, dense" in html


def test_whoever_opens_a_trace_has_the_accessor() -> None:
    code = (
        "from steptrace_analyzer import open_trace\n"
        "import xarray\n"
        "print(hasattr(xarray.DataTree, 'steptrace'))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "True\n"
