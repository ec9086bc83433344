"""The views of the whole model: its flow, the way of its parameters, its sensitivity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steptrace_analyzer.plots.flow import draw_flow
from steptrace_analyzer.plots.flow_data import flow_data
from steptrace_analyzer.plots.sensitivity import plot_sensitivity
from steptrace_analyzer.plots.trajectory import plot_trajectory
from steptrace_analyzer.report.contents import figure_place
from steptrace_analyzer.report.layers import at_all, at_each
from steptrace_analyzer.report.numbers import flow_numbers
from steptrace_analyzer.trace.described import statistics_table
from steptrace_analyzer.trace.select import layer_paths

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from steptrace_analyzer.plots.subject import Located
    from steptrace_analyzer.report.contents import Figures, StepChoices


def whole_figures(
    trace: xr.DataTree, found: Sequence[Located], choices: StepChoices
) -> tuple[Figures, ...]:
    """Draw what the trace holds of the whole model.

    Parameters
    ----------
    trace
        An opened trace.
    found
        What was found; its steps are marked.
    choices
        The steps to draw.
    """
    views: list[Figures] = []
    weighted = "weights" in trace.children and bool(layer_paths(trace, "weights"))
    described = any(
        statistics_table(trace, kind) is not None for kind in ("activations", "weights")
    )
    if described and (weighted or "activations" in trace.children):
        flow = flow_data(trace)
        views.append(
            at_each(
                "Model flow",
                choices.drawn,
                figure_place,
                lambda step: draw_flow(flow, step),
                lambda step: (
                    f"The layers as a graph, with what goes forward and back at step {step}"
                ),
                lambda step: flow_numbers(flow, step) if step in flow.steps else None,
            )
        )
    if weighted:
        views.append(
            at_all(
                "The way of the parameters",
                lambda: plot_trajectory(trace, None, found),
                "The weights of all steps in the directions in which they moved most",
            )
        )
    if "probe_gradients" in trace.children:
        views.append(
            at_each(
                "Sensitivity to the input",
                choices.drawn,
                figure_place,
                lambda step: plot_sensitivity(trace, step),
                lambda step: f"The gradient of each layer with respect to the input at step {step}",
            )
        )
    return tuple(views)
