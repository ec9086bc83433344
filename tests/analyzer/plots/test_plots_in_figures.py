"""Views in a figure of the user's, or in a part of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from figure_layout import layout_faults
from plot_traces import small_trace
from steptrace_analyzer import plots
from steptrace_schema.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable

VIEWS: dict[str, Callable[..., Figure]] = {
    "loss": plots.plot_loss,
    "gradients": plots.plot_gradients,
    "weights": plots.plot_weights,
    "parameters": plots.plot_parameters,
    "activations": plots.plot_activations,
    "maps": plots.plot_activation_maps,
    "flow": plots.plot_flow,
    "trajectory": plots.plot_trajectory,
    "ridge": plots.plot_ridge,
    "strip": lambda trace, figure: plots.plot_strip(trace, steps=[0, 1], figure=figure),
    "statistics": lambda trace, figure: plots.plot_statistics(trace, "conv", figure=figure),
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_fills_a_part_of_a_figure_and_leaves_the_rest(view: str) -> None:
    plot = VIEWS[view]
    figure = Figure(figsize=(26, 12))
    parts: Any = figure.subfigures(1, 2)
    left, right = parts
    assert plot(small_trace(), figure=left) is figure
    assert right.axes == []
    assert left.axes == figure.axes
    alone = plot(small_trace(), figure=None)
    assert len(alone.axes) == len(left.axes)
    FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]
    assert max(axes.get_position().x1 for axes in left.axes) <= 1.0


def test_a_view_in_a_figure_can_be_read() -> None:
    figure = Figure(figsize=(12, 9))
    assert plots.plot_loss(small_trace(), figure=figure) is figure
    assert layout_faults(figure) == []
    assert figure.get_size_inches().tolist() == [12, 9]


def test_a_view_that_fails_does_not_draw_the_next_one_into_its_figure() -> None:
    figure = Figure()
    with pytest.raises(UnknownNameError):
        plots.plot_weights(small_trace(), "other", figure=figure)
    assert plots.plot_loss(small_trace()) is not figure
    assert figure.axes == []
