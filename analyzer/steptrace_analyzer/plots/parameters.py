"""The parameters view: each parameter one point, with the force that the step exerts on it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator

from steptrace_analyzer.plots.limits import padded_range
from steptrace_analyzer.plots.reduce import keep_largest
from steptrace_analyzer.plots.style import (
    GREY,
    drawn_in,
    label,
    new_figure,
    set_title,
    style,
    whole,
)
from steptrace_analyzer.plots.subject import (
    choose_layer,
    choose_step,
    layer_tensors,
    model_name,
    read_step,
)
from steptrace_analyzer.plots.units import moving_units, unit_colours
from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import get_tensor, resolve_step

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from steptrace_analyzer.plots.style import Drawable
    from steptrace_analyzer.trace.open import TraceOrPath

MOST_POINTS: Final = 4000
"""More parameters than these are thinned out; the largest updates are always kept."""

PlaneLimits = tuple[tuple[float, float], tuple[float, float]]
"""Smallest and largest of two axes."""

_MOST_FORCES: Final = 300
_SIZES: Final = (6.0, 90.0)  # square points


@dataclasses.dataclass(frozen=True)
class ParametersData:
    """What the parameters view draws; all arrays have dims (point,).

    Parameters
    ----------
    model, layer, step
        What the points are of.
    value
        The parameter as the step used it.
    update
        What the step added to it.
    unit
        The output unit (or filter) that the parameter belongs to.
    index
        Its position among the parameters of that unit, variables one after the other.
    variables
        Name of each variable and the first index that it takes.
    total
        How many parameters the layer has.
    non_finite
        How many of them have a value or an update that is not finite, and no point.
    """

    model: str
    layer: str
    step: int
    value: npt.NDArray[np.float64]
    update: npt.NDArray[np.float64]
    unit: npt.NDArray[np.intp]
    index: npt.NDArray[np.intp]
    variables: tuple[tuple[str, int], ...]
    total: int
    non_finite: int


def parameters_data(
    trace: TraceOrPath,
    layer: str | None = None,
    step: int | None = None,
    *,
    most: int = MOST_POINTS,
) -> ParametersData:
    """Read a layer's parameters and their updates at one step, as points.

    Parameters
    ----------
    trace, layer, step
        As in :func:`plot_parameters`; so are the errors.
    most
        How many points at most: half of them are the largest updates, the rest evenly spread.
    """
    trace = opened(trace)
    path = choose_layer(trace, "updates", layer, lambda _: True)
    tensors = layer_tensors(trace, "updates", path)
    chosen = choose_step(get_tensor(trace, "updates", tensors[0]), step)
    columns: list[npt.NDArray[Any]] = []
    variables: list[tuple[str, int]] = []
    first = 0
    for tensor in tensors:
        resolve_step(get_tensor(trace, "updates", tensor), chosen)
        value = read_step(trace, "weights", tensor, chosen)
        update = read_step(trace, "updates", tensor, chosen)
        units = value.shape[-1] if value.ndim else 1
        per_unit = value.size // units if units else 0
        index, unit = np.divmod(np.arange(value.size), max(units, 1))
        columns.append(np.stack([value.ravel(), update.ravel(), unit, index + first]))
        variables.append((tensor.removeprefix(f"{path}/"), first))
        first += per_unit
    value, update, unit, index = np.concatenate(columns, axis=1)
    known = np.isfinite(value) & np.isfinite(update)
    kept = np.flatnonzero(known)[keep_largest(update[known], most)]
    return ParametersData(
        model=model_name(trace),
        layer=path,
        step=chosen,
        value=value[kept],
        update=update[kept],
        unit=unit[kept].astype(np.intp),
        index=index[kept].astype(np.intp),
        variables=tuple(variables),
        total=value.size,
        non_finite=int(value.size - known.sum()),
    )


def draw_parameters(
    data: ParametersData,
    limits: PlaneLimits | None = None,
    units: Sequence[int] | None = None,
) -> Figure:
    """Draw value against update, the force on each parameter by its index, and both in 3-D.

    Parameters
    ----------
    data
        What is drawn.
    limits
        Ranges of values and of updates, for figures of several steps that are to be compared.
    units
        The units with colours of their own; those that move most in this step if not given.
    """
    values, updates = limits or (None, None)
    value_range = padded_range(data.value) if values is None else values
    update_range = padded_range(data.update, 0.08) if updates is None else updates
    with style():
        figure = new_figure(13.0, 7.6)
        grid = figure.add_gridspec(2, 2, width_ratios=(1.0, 1.25))
        colours, handles = unit_colours(
            data.unit, moving_units(data.unit, data.update) if units is None else units
        )
        points: dict[str, Any] = {
            "c": colours,
            "s": point_sizes(data.update),
            "linewidths": 0,
        }
        plane = figure.add_subplot(grid[0, 0])
        _draw_plane(plane, data, points)
        plane.set(xlim=value_range, ylim=update_range)
        _draw_forces(figure.add_subplot(grid[1, 0]), data, colours, limits)
        space: Any = figure.add_subplot(grid[:, 1], projection="3d")
        space.scatter(data.index, data.value, data.update, alpha=0.7, **points)
        space.set(
            xlim=padded_range(data.index),
            ylim=value_range,
            zlim=update_range,
            title="index, value and update",
        )
        space.set_xlabel("index within the unit", labelpad=6)
        space.set_ylabel("value", labelpad=10)
        space.set_zlabel("update of the step", labelpad=14)
        space.zaxis.set_tick_params(pad=8)
        for axis in (space.xaxis, space.yaxis, space.zaxis):
            axis.set_major_locator(MaxNLocator(5, integer=axis is space.xaxis))
        space.set_box_aspect((1, 1, 1), zoom=0.82)
        figure.legend(
            handles=handles,
            title="output unit (out)",
            loc="outside right upper",
        )
        shown = data.value.size
        notes = ["Each point is one parameter; its size shows |update|"]
        if shown + data.non_finite < data.total:
            notes.append(
                f"{shown:,} of {data.total:,} parameters are shown: the {shown // 2:,} of the "
                "largest update and an even choice of the others"
            )
        else:
            notes.append(f"{shown:,} of {data.total:,} parameters are shown")
        if data.non_finite:
            notes.append(f"{data.non_finite:,} with a value or update that is not finite are not")
        set_title(figure, (data.model, f"step {data.step}", data.layer), notes)
    return figure


def plot_parameters(
    trace: TraceOrPath,
    layer: str | None = None,
    step: int | None = None,
    *,
    figure: Drawable | None = None,
) -> Figure:
    """Draw each parameter of a layer as a point, with its update as the force that training exerts.

    Three panels: value against update; value by index with an arrow-like line for the update,
    magnified as its title says; and index, value and update in 3-D. Colour is the output unit; of
    more than six, the six that move most are coloured.

    Parameters
    ----------
    trace
        A trace, or its path.
    layer
        A layer's path or its last segments; the first layer with updates if not given.
    step
        A step with an update, negative ones from the end; the last one if not given.
    figure
        Where to draw: a figure, or a part of one as its ``subfigures`` are; a new one if not given.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UnknownNameError, StepNotRecordedError
        If the trace has no such layer, or no update at that step.

    Examples
    --------
    >>> plot_parameters(open_trace("run.zarr"), "dense", step=40)  # doctest: +SKIP
    """
    with drawn_in(figure):
        return whole(draw_parameters(parameters_data(trace, layer, step)))


def point_sizes(update: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return sizes of points, in square points, whose area grows with |update|."""
    magnitude = np.abs(update)
    largest = magnitude.max(initial=0.0)
    share = magnitude / largest if largest else magnitude
    return _SIZES[0] + (_SIZES[1] - _SIZES[0]) * share


def magnification(value: npt.NDArray[np.float64], update: npt.NDArray[np.float64]) -> float:
    """Return a round factor by which updates are drawn larger, so that the largest is visible.

    It is 1, 2 or 5 times a power of ten, and the largest update becomes at most 30 % of the range
    of the values; 1 where all updates are zero or no value differs.

    Examples
    --------
    >>> magnification(np.array([0.0, 1.0]), np.array([0.001, 0.0]))
    200.0
    """
    largest = np.abs(update).max(initial=0.0)
    span = np.ptp(value) if value.size else 0.0
    if not largest or not span:
        return 1.0
    exact = np.log10(0.3 * span) - np.log10(largest)
    power = np.floor(exact)
    round_factor = max(f for f in (1.0, 2.0, 5.0) if np.log10(f) <= exact - power + 1e-9)
    return float(round_factor * 10.0**power)


def _draw_plane(axes: Axes, data: ParametersData, points: dict[str, Any]) -> None:
    axes.scatter(data.value, data.update, alpha=0.7, **points)
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    axes.set(
        xlabel="value",
        ylabel="update of the step",
        title="value against update",
    )


def _draw_forces(
    axes: Axes,
    data: ParametersData,
    colours: npt.NDArray[np.float64],
    limits: PlaneLimits | None,
) -> None:
    scale = magnification(data.value, data.update)
    if limits is not None:
        scale = magnification(np.array(limits[0]), np.array(limits[1]))
    largest = np.argsort(-np.abs(data.update), kind="stable")[:_MOST_FORCES]
    index, value = data.index[largest], data.value[largest]
    tips = value + scale * data.update[largest]
    ends = np.stack([value, tips], axis=1)
    lines = np.stack([np.broadcast_to(index[:, None], ends.shape), ends], axis=2)
    axes.add_collection(
        LineCollection(list(lines), colors=colours[largest], linewidths=1.0, alpha=0.8)
    )
    axes.scatter(index, value, s=9, color=colours[largest], linewidths=0)
    if scale == 1:
        factor = "drawn to scale"
    elif scale < 1:
        factor = f"shortened to {scale:.10g} of their length"
    else:
        factor = f"drawn {scale:,.10g} times as long"
    axes.set(
        xlabel=_index_label(data),
        ylabel="value",
        xlim=padded_range(data.index),
        ylim=padded_range(np.concatenate([data.value, tips]))
        if limits is None
        else padded_range(np.array(limits[0]), 0.3),
        title=f"the {largest.size} largest updates, {factor}",
    )
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def _index_label(data: ParametersData) -> str:
    starts = ", ".join(f"{label(name)} from {first}" for name, first in data.variables)
    return f"index within the unit ({starts})"
