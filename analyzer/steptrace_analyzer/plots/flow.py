"""The model flow view: the network as a graph, with what goes forward and what comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.patches import FancyArrowPatch

from steptrace_analyzer.plots.flow_data import FlowData, Measure, flow_data
from steptrace_analyzer.plots.limits import finite, set_log_ticks
from steptrace_analyzer.plots.style import (
    BLACK,
    LIGHT_GREY,
    NON_FINITE,
    ORANGE,
    PALE_GREY,
    QUIET,
    drawn_in,
    label,
    new_figure,
    set_title,
    style,
    whole,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from steptrace_analyzer.plots.style import Drawable
    from steptrace_analyzer.trace.open import TraceOrPath

_LONGEST_NAME, _LONGEST_CLASS = 36, 24  # characters
_WIDTHS: Final = (0.6, 5.0)  # points of an arrow
_ROWS: Final = (0.34, 0.21)  # inches of a row: of few, and of many with smaller names
_MANY: Final = 40


def draw_flow(data: FlowData, step: int | None = None) -> Figure:
    """Draw the graph in a column, and beside each node its measures at one step.

    Pale bars hold all steps, so that the same axes serve every step.
    """
    column = data.column(step)
    rows = len(data.graph.nodes)
    lanes = max((edge.lane for edge in data.graph.edges), default=0)
    with style():
        figure = new_figure(12.5, float(np.clip(2.0 + _ROWS[rows > _MANY] * rows, 3.4, 40.0)))
        shown = [m for m in data.measures if np.isfinite(m.values).any() or m.broken.any()]
        ratios = (0.5 + 0.22 * min(lanes, 8), *[1.6] * max(len(shown), 1))
        grid = figure.subplots(1, 1 + max(len(shown), 1), sharey=True, width_ratios=ratios)
        _draw_graph(grid[0], data, column)
        for axes, measure in zip(grid[1:], shown, strict=False):
            _draw_measure(axes, measure, column)
        grid[0].set_ylim(rows - 0.4, -0.6)
        small = rows > _MANY
        names = [_name(node.path, node.class_name) for node in data.graph.nodes]
        grid[1].set_yticks(range(rows), names)
        for axes in grid[1:]:
            axes.tick_params(axis="y", length=0, labelsize=7 if small else 9)
            axes.tick_params(labelleft=axes is grid[1])
        told = f"step {data.steps[column]}"
        if data.loss.size:
            told += f", loss {data.loss[column]:.4g}"
        set_title(figure, (data.model, told, "model flow"), _notes(data, column))
    return figure


def plot_flow(
    trace: TraceOrPath, step: int | None = None, *, figure: Drawable | None = None
) -> Figure:
    """Draw the network as a graph, with what goes forward and back in it at a step.

    Each row is a layer, in the order of the model. Arrows go from each layer to those that take its
    output: forward in blue, as wide as the output is large; backward in orange, as wide as the
    gradient of the loss is large. Beside it are the output's root mean square, its gradient's, that
    of the weights, and the size of the update as a share of the weights.

    Parameters
    ----------
    trace
        A trace, or its path. Only its attributes and statistics are read.
    step
        A recorded step, negative ones from the end; the last one if not given.
    figure
        Where to draw: a figure, or a part of one as its ``subfigures`` are; a new one if not given.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UnknownNameError
        If the trace has neither activations nor weights.
    StepNotRecordedError
        If the step has no statistics.

    Examples
    --------
    >>> plot_flow(open_trace("run.zarr"), step=40)  # doctest: +SKIP
    """
    with drawn_in(figure):
        return whole(draw_flow(flow_data(trace), step))


def _draw_graph(axes: Axes, data: FlowData, column: int) -> None:
    for edge in data.graph.edges:
        for measure, node, ends, side in (
            (data.forward, edge.source, (edge.source, edge.target), -1),
            (data.backward, edge.target, (edge.target, edge.source), 1),
        ):
            at = 0.11 * side
            start, end = ends
            wide = _width(measure, node, column)
            off = at if not edge.lane else -0.12
            gap = 0.2 * np.sign(end - start)
            arrow = FancyArrowPatch(
                (off, start + gap),
                (off, end - gap),
                connectionstyle=_path(edge.lane, side),
                arrowstyle="-|>",
                mutation_scale=5 + 1.2 * wide,
                linewidth=wide,
                color=measure.colour,
                alpha=0.8,
                shrinkA=0,
                shrinkB=0,
            )
            arrow.set_in_layout(False)
            axes.add_patch(arrow)
    places = np.arange(len(data.graph.nodes))
    given = np.array([node.class_name == "data" for node in data.graph.nodes])
    axes.plot(np.zeros(given.sum()), places[given], "s", color=ORANGE, markersize=7)
    axes.plot(np.zeros((~given).sum()), places[~given], "o", color=BLACK, markersize=6)
    lanes = max((edge.lane for edge in data.graph.edges), default=0)
    axes.set_xlim(-0.3 - 0.4 * lanes, 0.3)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="y", length=0, labelleft=False)
    axes.set_title("graph")


def _path(lane: int, side: int) -> str:
    """Return matplotlib's words for an arrow: straight, or out to its lane and back."""
    if not lane:
        return "arc3"
    out = 16.0 * lane + 4.0 * side  # points, to the left of the nodes
    turn = 180.0
    return f"arc,angleA={turn},angleB={turn},armA={out},armB={out},rad=6"


def _width(measure: Measure, node: int, column: int) -> float:
    """Return points: logarithmic between the smallest and the largest of the run."""
    value = measure.values[node, column]
    known = finite(measure.values)
    known = known[known > 0]
    if not np.isfinite(value) or value <= 0 or not known.size:
        return _WIDTHS[0]
    low, high = np.log10([known.min(), known.max()])
    share = (np.log10(value) - low) / (high - low) if high > low else 0.5
    return float(_WIDTHS[0] + (_WIDTHS[1] - _WIDTHS[0]) * share)


def _draw_measure(axes: Axes, measure: Measure, column: int) -> None:
    rows = np.arange(measure.values.shape[0])
    positive = np.where(measure.values > 0, measure.values, np.nan)
    some = np.isfinite(positive).any(axis=1)
    low, high = np.full(rows.size, np.nan), np.full(rows.size, np.nan)
    low[some], high[some] = np.nanmin(positive[some], axis=1), np.nanmax(positive[some], axis=1)
    if some.any():
        axes.set_xscale("log")
        least, most = np.log10([np.nanmin(low), np.nanmax(high)])
        pad = 0.06 * (most - least) or 0.08
        axes.set_xlim(10 ** (least - pad), 10 ** (most + pad))
        _draw_bands(axes, rows[some], low[some], high[some], color=LIGHT_GREY, linewidth=6)
        set_log_ticks(axes.xaxis, *axes.get_xlim())
    now = positive[:, column]
    axes.plot(now, rows, "o", color=measure.colour, markersize=6, zorder=3)
    left = axes.get_yaxis_transform()
    marks: dict[str, Any] = {"transform": left, "linestyle": "none", "clip_on": False}
    zero = np.flatnonzero(measure.values[:, column] == 0)
    broken = np.flatnonzero(measure.broken[:, column])
    if zero.size:
        axes.plot(np.zeros(zero.size), zero, "o", mfc="white", mec=QUIET, markersize=6, **marks)
    if broken.size:
        axes.plot(np.zeros(broken.size), broken, "X", color=NON_FINITE, markersize=8, **marks)
    axes.set_title(measure.title)
    axes.set_xlabel(measure.unit)
    across = axes.get_yaxis_transform()
    ends = np.zeros(rows.size), np.ones(rows.size)
    _draw_bands(axes, rows, *ends, transform=across, color=PALE_GREY, linewidth=0.7, zorder=0)


def _draw_bands(
    axes: Axes,
    rows: npt.NDArray[Any],
    low: npt.NDArray[Any],
    high: npt.NDArray[Any],
    **looks: Any,
) -> None:
    """Draw a line in each row; ``hlines`` of matplotlib 3.10 gets the limits of the data wrong."""
    gap = np.full(rows.size, np.nan)
    axes.plot(
        np.stack([low, high, gap], axis=1).ravel(),
        np.repeat(rows, 3),
        solid_capstyle="butt",
        **looks,
    )


def _name(path: str, class_name: str) -> str:
    short = _cut(path.partition("/")[2] or path, _LONGEST_NAME)
    return label(f"{short}  ({_cut(class_name, _LONGEST_CLASS)})" if class_name else short)


def _cut(name: str, longest: int) -> str:
    """Leave out the beginning of a name that would leave no room for the figure."""
    return name if len(name) <= longest else f"..{name[2 - longest :]}"


def _notes(data: FlowData, column: int) -> list[str]:
    notes = ["Grey: all steps. Arrows: as wide as what they carry, on a logarithmic scale"]
    if not data.graph.recorded:
        notes.append("What each layer takes is not recorded: the layers are drawn as a chain")
    if data.total > len(data.graph.nodes):
        notes.append(f"The first {len(data.graph.nodes)} of {data.total} layers are drawn")
    if any((m.values[:, column] == 0).any() for m in data.measures):
        notes.append("Hollow: zero")
    if any(m.broken[:, column].any() for m in data.measures):
        notes.append("Magenta: not finite")
    return notes
