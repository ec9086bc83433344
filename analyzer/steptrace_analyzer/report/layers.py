"""A layer's part of the page: its figures at the chosen steps and over time."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

from steptrace_analyzer.plots.activations import plot_activations
from steptrace_analyzer.plots.maps import plot_activation_maps
from steptrace_analyzer.plots.parameters import plot_parameters
from steptrace_analyzer.plots.statistics import plot_statistics
from steptrace_analyzer.plots.subject import has_step, layer_tensors
from steptrace_analyzer.plots.weights import draw_weights, weights_data, weights_ranges
from steptrace_analyzer.report.contents import Figures, Shown, StepChoices
from steptrace_analyzer.report.pictures import Layout, pixel_picture
from steptrace_analyzer.trace.described import described_tensors, statistics_table
from steptrace_analyzer.trace.select import has_tensor, layer_of, layer_paths, tensor_paths
from steptrace_schema.errors import TraceError
from steptrace_schema.names import KINDS, PREACTIVATION

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr
    from matplotlib.figure import Figure

    from steptrace_analyzer.plots.weights import Ranges


def drawn_layers(trace: xr.DataTree) -> list[str]:
    """Return the layers that have figures: those with weights or an activation function."""
    layers = dict.fromkeys(layer_paths(trace, "weights"))
    probed = (p for p in tensor_paths(trace, "probe") if p.endswith(f"/{PREACTIVATION}"))
    layers |= dict.fromkeys(layer_of(path) for path in probed)
    order = {layer: place for place, layer in enumerate(layer_paths(trace, "activations"))}
    return sorted(layers, key=lambda layer: order.get(layer, len(order)))


def layer_figures(trace: xr.DataTree, layer: str, choices: StepChoices) -> tuple[Figures, ...]:
    """Draw all of a layer.

    A figure that cannot be drawn, because its step or tensor is not recorded or damaged, is
    replaced by the reason.

    Parameters
    ----------
    trace
        An opened trace.
    layer
        A layer's whole path.
    choices
        The steps to draw.

    Returns
    -------
    tuple of Figures
        One for each view; pictures of a step are shown when it is chosen.
    """
    views: list[Figures] = []
    if layer_tensors(trace, "weights", layer):
        ranges = cache(lambda: _ranges(trace, layer, choices))
        views.append(
            at_each(
                "Weights and their update",
                choices,
                lambda step: draw_weights(weights_data(trace, layer, step, ranges=ranges())),
                lambda step: f"Weights of {layer} at step {step} beside the update of that step",
            )
        )
    if layer_tensors(trace, "updates", layer):
        views.append(
            at_each(
                "Parameters and the force on each",
                choices,
                lambda step: plot_parameters(trace, layer, step),
                lambda step: f"Parameters of {layer} as points with their updates at step {step}",
            )
        )
    if has_tensor(trace, "probe", f"{layer}/{PREACTIVATION}"):
        views.append(
            at_all(
                "Activation function: input against output",
                lambda: plot_activations(trace, layer, choices.steps),
                f"Inputs and outputs of the activation function of {layer} at several steps",
            )
        )
    if layer in layer_paths(trace, "activations"):
        views.append(
            at_each(
                "Activation maps of one input",
                choices,
                lambda step: plot_activation_maps(trace, layer, step),
                lambda step: (
                    f"Input, output of {layer}, and the gradients of both, "
                    f"for the first sample of step {step}"
                ),
            )
        )
    if _has_statistics(trace, layer):
        views.append(
            at_all(
                "Values over time",
                lambda: plot_statistics(trace, layer),
                f"Distribution of the values of each tensor of {layer} by step",
            )
        )
    return tuple(views)


def at_each(
    title: str, choices: StepChoices, plot: Callable[[int], Figure], alt: Callable[[int], str]
) -> Figures:
    """Draw a view at each step, all laid out as the first; one that cannot be drawn says why."""
    layout: Layout = []
    return Figures(
        title,
        tuple(
            _picture_or_reason(partial(plot, step), alt(step), choices.control(step), layout)
            for step in choices.steps
        ),
    )


def at_all(title: str, plot: Callable[[], Figure], alt: str) -> Figures:
    """Draw a view of all steps; one that cannot be drawn says why."""
    return Figures(title, (_picture_or_reason(plot, alt),))


def _picture_or_reason(
    plot: Callable[[], Figure],
    alt: str,
    control: str | None = None,
    layout: Layout | None = None,
) -> Shown:
    try:
        figure = plot()
    except TraceError as error:
        return Shown(None, str(error), control)
    return Shown(pixel_picture(figure, alt, layout), control=control)


def _ranges(trace: xr.DataTree, layer: str, choices: StepChoices) -> Ranges:
    """Return the colour ranges of the steps at which the layer's weights are recorded."""
    path = layer_tensors(trace, "weights", layer)[0]
    steps = [step for step in choices.steps if has_step(trace, "weights", path, step)]
    return weights_ranges(trace, layer, steps)


def _has_statistics(trace: xr.DataTree, layer: str) -> bool:
    tables = (statistics_table(trace, kind) for kind in KINDS)
    return any(
        layer_of(path) == layer
        for table in tables
        if table is not None
        for path in described_tensors(table)
    )
