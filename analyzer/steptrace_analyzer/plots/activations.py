"""The activations view: what goes into an activation function against what comes out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.lines import Line2D

from steptrace_analyzer.plots.activation_points import ActivationPoints, activation_points
from steptrace_analyzer.plots.limits import padded_range
from steptrace_analyzer.plots.style import (
    BLACK,
    GREY,
    NON_FINITE,
    SILVER,
    category_colours,
    drawn_in,
    label,
    new_figure,
    set_title,
    style,
    whole,
)
from steptrace_analyzer.plots.subject import choose_layer, model_name, read_step
from steptrace_analyzer.trace.open import opened, trace_attributes
from steptrace_analyzer.trace.select import (
    get_tensor,
    layer_of,
    recorded_steps,
    resolve_step,
    tensor_paths,
)
from steptrace_schema.errors import UnknownNameError
from steptrace_schema.names import OUTPUT, PREACTIVATION

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from steptrace_analyzer.plots.style import Drawable
    from steptrace_analyzer.trace.open import TraceOrPath

MOST_POINTS: Final = 3000
"""More values than these per step are thinned out evenly."""

_DEFAULT_STEPS: Final = 4
_BINS: Final = 40
_LEGEND_INCHES: Final = 1.2
"""Of an entry of the legend, of which the longest is as wide."""
_MOST_LEGEND: Final = 8
_MOST_FALLING: Final = 0.1


@dataclasses.dataclass(frozen=True)
class ActivationsData:
    """What the activations view draws."""

    model: str
    layer: str
    activation: str
    samples: int
    steps: tuple[ActivationPoints, ...]


def activations_data(
    trace: TraceOrPath,
    layer: str | None = None,
    steps: Sequence[int] | None = None,
    *,
    most: int = MOST_POINTS,
) -> ActivationsData:
    """Read inputs and outputs of a layer's activation function at some steps.

    Parameters
    ----------
    trace, layer, steps
        As in :func:`plot_activations`; so are the errors.
    most
        How many points per step at most, evenly taken.
    """
    trace = opened(trace)
    path = _layer_with_preactivation(trace, layer)
    before = get_tensor(trace, "probe", f"{path}/{PREACTIVATION}")
    recorded = recorded_steps(before)
    if steps is None:
        places = np.linspace(0, len(recorded) - 1, _DEFAULT_STEPS).round().astype(int)
        steps = [recorded[place] for place in dict.fromkeys(places.tolist())] if recorded else []
    chosen = sorted({resolve_step(before, step) for step in steps})
    described = trace_attributes(trace).layer(path)
    return ActivationsData(
        model=model_name(trace),
        layer=path,
        activation=(described.activation if described else None) or "activation function",
        samples=int(before.shape[1]),
        steps=tuple(_points(trace, path, step, most) for step in chosen),
    )


def draw_activations(
    data: ActivationsData,
    limits: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> Figure:
    """Draw one column per step: distribution of the inputs, output against input, input order.

    Parameters
    ----------
    data
        What is drawn.
    limits
        Ranges of inputs and of outputs, for figures of several steps that are to be compared.
    """
    columns = max(len(data.steps), 1)
    with style():
        figure = new_figure(max(3.1 * columns + 0.9, 7.0), 7.4)
        grid = figure.subplots(
            3, columns, squeeze=False, sharex="row", sharey="row", height_ratios=(1.0, 2.6, 2.6)
        )
        inputs = np.concatenate([points.before for points in data.steps] or [np.empty(0)])
        outputs = np.concatenate([points.after for points in data.steps] or [np.empty(0)])
        if limits is not None:
            inputs, outputs = np.array(limits[0]), np.array(limits[1])
        colours = category_colours(max(data.samples, 1))
        edges = np.linspace(*padded_range(inputs, 0.0), _BINS + 1)
        for column, points in zip(grid.T, data.steps, strict=False):
            top, middle, bottom = column
            top.hist(points.before, bins=edges, color=GREY)
            top.set_title(f"step {points.step}\n{_shares(points)}")
            _draw_function(middle, points, colours)
            if points.non_finite:
                middle.plot(0.5, 0.97, "X", color=NON_FINITE, transform=middle.transAxes)
            _draw_order(bottom, points, colours)
        grid[0, 0].set(ylabel="values", xlim=padded_range(inputs))
        grid[1, 0].set(
            ylabel=f"output of {label(data.activation)}",
            xlim=padded_range(inputs),
            ylim=padded_range(outputs, 0.08),
        )
        grid[2, 0].set(
            ylabel="value",
            xlim=(-0.6, max(data.samples, 1) - 0.4),
            ylim=padded_range(np.concatenate([inputs, outputs]), 0.08),
        )
        shown = list(range(min(data.samples, 20)))
        for axes in grid[2]:
            axes.set_xticks(shown)
            axes.set_xlabel("probe sample, in input order")
        for axes in grid[1]:
            axes.set_xlabel("pre-activation (input)")
        _add_legend(figure, data, colours)
        steps = ", ".join(str(points.step) for points in data.steps) or "none"
        noun = "step" if len(data.steps) == 1 else "steps"
        set_title(figure, (data.model, f"{noun} {steps}", data.layer), _notes(data))
    return figure


def plot_activations(
    trace: TraceOrPath,
    layer: str | None = None,
    steps: Sequence[int] | None = None,
    *,
    figure: Drawable | None = None,
) -> Figure:
    """Draw inputs and outputs of a layer's activation function at several steps, as points.

    The same inputs, those of the probe, go through the model at each step, so the columns compare
    over time. Top: how the inputs are distributed. Middle: output against input. Bottom: inputs
    (grey) and outputs by input order.

    Parameters
    ----------
    trace
        A trace with a probe, or its path.
    layer
        A layer's path or its last segments; the first one with a pre-activation if not given.
    steps
        Recorded steps, negative ones from the end; four from first to last if not given.
    figure
        Where to draw: a figure, or a part of one as its ``subfigures`` are; a new one if not given.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UnknownNameError
        If the layer has no pre-activation; the message lists the layers that have one.
    StepNotRecordedError
        If a step is not recorded.

    Examples
    --------
    >>> plot_activations(open_trace("run.zarr"), "dense", steps=[0, 40, -1])  # doctest: +SKIP
    """
    with drawn_in(figure):
        return whole(draw_activations(activations_data(trace, layer, steps)))


def _layer_with_preactivation(trace: xr.DataTree, name: str | None) -> str:
    having = [
        layer_of(path)
        for path in tensor_paths(trace, "probe")
        if path.endswith(f"/{PREACTIVATION}")
    ]
    known = [layer.path for layer in trace_attributes(trace).layers]
    described = [path for path in known if name in (path, path.rpartition("/")[2])]
    if name is not None and described and not set(described) & set(having):
        listed = f"layers with one are {', '.join(having)}" if having else "no layer has one"
        msg = (
            f"{trace.name or 'the trace'} has no pre-activation of layer '{name}': it has no "
            f"activation function, or its probe was not recorded; {listed}"
        )
        raise UnknownNameError(msg)
    return choose_layer(trace, "probe", name, lambda path: path.endswith(f"/{PREACTIVATION}"))


def _points(trace: xr.DataTree, path: str, step: int, most: int) -> ActivationPoints:
    before = read_step(trace, "probe", f"{path}/{PREACTIVATION}", step)
    after = read_step(trace, "probe", f"{path}/{OUTPUT}", step)
    return activation_points(before, after, step, most)


def _draw_function(axes: Axes, points: ActivationPoints, colours: list[str]) -> None:
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    chosen = np.asarray(colours)[points.sample]
    axes.scatter(points.before, points.after, s=_size(points), c=chosen, alpha=0.6, linewidths=0)
    order = np.argsort(points.before, kind="stable")
    curve = points.after[order]
    # One output for each input is a function of one value; softmax and the like have no curve.
    steep = np.diff(curve, prepend=curve[:1]) < -1e-6 * (np.ptp(curve) if curve.size else 0.0)
    if curve.size > 1 and np.mean(steep) < _MOST_FALLING:
        axes.plot(points.before[order], curve, color=BLACK, linewidth=0.9, alpha=0.7, zorder=3)


def _draw_order(axes: Axes, points: ActivationPoints, colours: list[str]) -> None:
    across = points.sample + 0.8 * (points.position - 0.5)
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    axes.scatter(across, points.before, s=_size(points), color=SILVER, linewidths=0)
    chosen = np.asarray(colours)[points.sample]
    axes.scatter(across, points.after, s=_size(points), c=chosen, alpha=0.8, linewidths=0)


def _shares(points: ActivationPoints) -> str:
    """Say how many outputs are zero, and how many are at the flat ends of a bounded function."""
    after = points.after
    if not after.size:
        return "no finite value"
    said = [f"{np.mean(after == 0):.0%} zero"]
    if points.non_finite:
        said.append(f"{points.non_finite / points.total:.0%} not finite")
    low, high = float(after.min()), float(after.max())
    if low >= -1 and high <= 1 and (low < 0 or high > 0.5) and points.before.max() > 1.5:
        ends = np.abs(after) > 0.99 if low < 0 else (after > 0.99) | (after < 0.01)
        said.append(f"{np.mean(ends):.0%} saturated")
    return ", ".join(said)


def _size(points: ActivationPoints) -> float:
    """Return square points for one value: fewer values are drawn larger."""
    return float(np.clip(4000 / max(points.before.size, 1), 6.0, 36.0))


def _add_legend(figure: Figure, data: ActivationsData, colours: list[str]) -> None:
    if data.samples > _MOST_LEGEND:
        return
    handles = [
        Line2D([], [], linestyle="none", marker="o", color=colour, label=f"sample {index}")
        for index, colour in enumerate(colours[: data.samples])
    ]
    handles.append(Line2D([], [], linestyle="none", marker="o", color=SILVER, label="input"))
    columns = min(len(handles), int(figure.bbox.width / figure.dpi / _LEGEND_INCHES))
    figure.legend(handles=handles, loc="outside lower right", ncols=columns)


def _notes(data: ActivationsData) -> list[str]:
    notes = []
    most = max((points.total for points in data.steps), default=0)
    shown = max((points.before.size for points in data.steps), default=0)
    if shown < most:
        notes.append(f"{shown:,} of {most:,} values per step, evenly taken")
    for points in data.steps:
        if points.non_finite:
            notes.append(
                f"{points.non_finite:,} of {points.total:,} values of step {points.step} are not "
                "finite and not shown"
            )
    return notes
