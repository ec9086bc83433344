"""A layer's part of the page: its figures at the chosen steps and over time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from steptrace_analyzer.plots.activations import plot_activations
from steptrace_analyzer.plots.maps import plot_activation_maps
from steptrace_analyzer.plots.parameters import plot_parameters
from steptrace_analyzer.plots.statistics import plot_statistics
from steptrace_analyzer.plots.subject import layer_tensors
from steptrace_analyzer.plots.weights import plot_weights
from steptrace_analyzer.report.contents import Figures, Shown, StepChoices
from steptrace_analyzer.report.pictures import pixel_picture
from steptrace_analyzer.trace.described import described_tensors, statistics_table
from steptrace_analyzer.trace.select import has_tensor, layer_of, layer_paths, tensor_paths
from steptrace_schema.errors import TraceError
from steptrace_schema.names import KINDS, PREACTIVATION

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr
    from matplotlib.figure import Figure


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
        views.append(
            _at_each(
                "Weights and their update",
                choices,
                lambda step: plot_weights(trace, layer, step, compare=choices.steps),
                lambda step: f"Weights of {layer} at step {step} beside the update of that step",
            )
        )
    if layer_tensors(trace, "updates", layer):
        views.append(
            _at_each(
                "Parameters and the force on each",
                choices,
                lambda step: plot_parameters(trace, layer, step),
                lambda step: f"Parameters of {layer} as points with their updates at step {step}",
            )
        )
    if has_tensor(trace, "probe", f"{layer}/{PREACTIVATION}"):
        views.append(
            _at_all(
                "Activation function: input against output",
                lambda: plot_activations(trace, layer, choices.steps),
                f"Inputs and outputs of the activation function of {layer} at several steps",
            )
        )
    if layer in layer_paths(trace, "activations"):
        views.append(
            _at_each(
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
            _at_all(
                "Values over time",
                lambda: plot_statistics(trace, layer),
                f"Distribution of the values of each tensor of {layer} by step",
            )
        )
    return tuple(views)


def _at_each(
    title: str, choices: StepChoices, plot: Callable[[int], Figure], alt: Callable[[int], str]
) -> Figures:
    return Figures(
        title,
        tuple(
            _picture_or_reason(partial(plot, step), alt(step), choices.control(step))
            for step in choices.steps
        ),
    )


def _at_all(title: str, plot: Callable[[], Figure], alt: str) -> Figures:
    return Figures(title, (_picture_or_reason(plot, alt),))


def _picture_or_reason(plot: Callable[[], Figure], alt: str, control: str | None = None) -> Shown:
    try:
        figure = plot()
    except TraceError as error:
        return Shown(None, str(error), control)
    return Shown(pixel_picture(figure, alt), control=control)


def _has_statistics(trace: xr.DataTree, layer: str) -> bool:
    tables = (statistics_table(trace, kind) for kind in KINDS)
    return any(
        layer_of(path) == layer
        for table in tables
        if table is not None
        for path in described_tensors(table)
    )
