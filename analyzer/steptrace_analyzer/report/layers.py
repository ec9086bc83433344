"""A layer's part of the page: its figures at the chosen steps and over time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from steptrace_analyzer.plots.activations import plot_activations
from steptrace_analyzer.plots.parameters import plot_parameters
from steptrace_analyzer.plots.statistics import plot_statistics
from steptrace_analyzer.plots.subject import layer_tensors
from steptrace_analyzer.report.contents import Figures, Shown, layer_place
from steptrace_analyzer.report.numbers import tensor_numbers
from steptrace_analyzer.report.pictures import Layout, pixel_picture
from steptrace_analyzer.trace.described import described_tensors, statistics_table
from steptrace_analyzer.trace.select import has_tensor, layer_of, layer_paths, tensor_paths
from steptrace_schema.errors import TraceError
from steptrace_schema.names import KINDS, PREACTIVATION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray as xr
    from matplotlib.figure import Figure

    from steptrace_analyzer.report.contents import StepChoices, Table


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
        One for each view; pictures of a step are shown while it is the nearest to the chosen one.
    """
    views: list[Figures] = []
    if layer_tensors(trace, "updates", layer):
        views.append(
            at_each(
                "Parameters and the force on each",
                choices.closely,
                layer_place,
                lambda step: plot_parameters(trace, layer, step),
                lambda step: f"Parameters of {layer} as points with their updates at step {step}",
                lambda step: tensor_numbers(trace, ("weights", "updates"), layer, [step]),
            )
        )
    if has_tensor(trace, "probe", f"{layer}/{PREACTIVATION}"):
        views.append(
            at_all(
                "Activation function: input against output",
                lambda: plot_activations(trace, layer, choices.drawn),
                f"Inputs and outputs of the activation function of {layer} at several steps",
                tensor_numbers(trace, ("probe",), layer, choices.drawn),
            )
        )
    if _has_statistics(trace, layer):
        views.append(
            at_all(
                "Values over time",
                lambda: plot_statistics(trace, layer),
                f"Distribution of the values of each tensor of {layer} by step",
                tensor_numbers(trace, KINDS, layer, choices.drawn),
            )
        )
    return tuple(views)


def at_each(
    title: str,
    steps: Sequence[int],
    place: Callable[[int], str],
    plot: Callable[[int], Figure],
    alt: Callable[[int], str],
    numbers: Callable[[int], Table | None] = lambda step: None,
) -> Figures:
    """Draw a view at each step, all laid out as the first; one that cannot be drawn says why.

    Parameters
    ----------
    title
        Of the view.
    steps
        The steps.
    place
        Returns the place of a step's picture.
    plot, alt, numbers
        Return the figure of a step, what it shows, and the same as numbers.
    """
    layout: Layout = []
    return Figures(
        title,
        tuple(
            _picture_or_reason(partial(plot, step), alt(step), place(step), layout, numbers(step))
            for step in steps
        ),
    )


def at_all(
    title: str, plot: Callable[[], Figure], alt: str, numbers: Table | None = None
) -> Figures:
    """Draw a view of all steps; one that cannot be drawn says why."""
    return Figures(title, (_picture_or_reason(plot, alt, numbers=numbers),))


def _picture_or_reason(
    plot: Callable[[], Figure],
    alt: str,
    place: str | None = None,
    layout: Layout | None = None,
    numbers: Table | None = None,
) -> Shown:
    try:
        figure = plot()
    except TraceError as error:
        return Shown(None, str(error), place)
    return Shown(pixel_picture(figure, alt, layout), place=place, numbers=numbers)


def _has_statistics(trace: xr.DataTree, layer: str) -> bool:
    tables = (statistics_table(trace, kind) for kind in KINDS)
    return any(
        layer_of(path) == layer
        for table in tables
        if table is not None
        for path in described_tensors(table)
    )
