"""The model as a graph, with the size of what flows in it at a step; a click chooses a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Range1d
from bokeh.plotting import figure

from steptrace_analyzer.plots.limits import finite
from steptrace_analyzer.plots.style import NON_FINITE, ORANGE
from steptrace_analyzer.view.look import quiet_figure
from steptrace_analyzer.view.page_text import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from steptrace_analyzer.plots.flow_data import FlowData, Measure

_FIRST, _WIDTH, _GAP = 0.4, 1.0, 0.25
_ROW: Final = 30  # pixels
_MOST_ROWS: Final = 24  # of a model with more layers the figure scrolls
_LINES: Final = (0.8, 6.0)
_HEADS: Final = ("output", "gradient", "weights", "update")
_MOST_LETTERS: Final = 21


class FlowView:
    """Rows of layers in the order of the model, and the edges between them."""

    def __init__(self, on_layer: Callable[[str], None]) -> None:
        self._on_layer = on_layer
        self._flow: FlowData | None = None
        self._nodes = ColumnDataSource()
        self._points = ColumnDataSource()
        self._forward, self._backward = ColumnDataSource(), ColumnDataSource()
        self._spread = ColumnDataSource()
        self._chosen = ColumnDataSource({"row": []})
        self.figure = quiet_figure(
            figure(
                name="flow",
                x_axis_location="above",
                sizing_mode="stretch_width",
                height=300,
                x_range=Range1d(-0.6, _FIRST + 4 * (_WIDTH + _GAP)),
                y_range=Range1d(10, -0.6),
                tools=["ypan", "ywheel_pan", "reset"],
            )
        )
        plot = self.figure
        plot.grid.visible = False
        # Names are labels of the axes, whose colours follow the theme.
        heads = [place * (_WIDTH + _GAP) + _FIRST + _WIDTH / 2 for place in range(4)]
        plot.xaxis[0].ticker = FixedTicker(ticks=heads)
        plot.xaxis[0].major_label_overrides = dict(zip(heads, _HEADS, strict=True))
        end = _FIRST + 4 * (_WIDTH + _GAP)
        plot.hbar(
            y="row",
            left=-0.6,
            right=end,
            height=0.9,
            source=self._chosen,
            name="chosen",
            color=ORANGE,
            alpha=0.22,
        )
        plot.hbar(
            y="row",
            left="left",
            right="right",
            height=0.16,
            source=self._spread,
            color="#8a949e",
            alpha=0.45,
        )
        for source, measure_colour in ((self._forward, "#0072B2"), (self._backward, "#D55E00")):
            plot.multi_line(
                "xs",
                "ys",
                line_width="width",
                line_color=measure_colour,
                line_alpha=0.8,
                source=source,
            )
        dots = plot.scatter(
            "x", "row", marker="marker", color="colour", size=9, source=self._points
        )
        plot.scatter(
            x=0,
            y="row",
            marker="marker",
            size=10,
            color="colour",
            line_color="#8a949e",
            source=self._nodes,
        )
        rows = plot.hbar(
            y="row",
            left=-0.6,
            right=end,
            height=0.95,
            fill_alpha=0,
            line_alpha=0,
            source=self._nodes,
        )
        plot.add_tools(
            HoverTool(renderers=[rows], tooltips=[("layer", "@path"), ("class", "@kind")]),
            HoverTool(
                renderers=[dots],
                tooltips=[("layer", "@path"), ("@measure", "@value{%.4g}")],
                formatters={"@value": "printf"},
            ),
        )
        plot.on_event("tap", self._tapped)
        self.root = plot

    def show_flow(self, flow: FlowData | None) -> None:
        """Draw the graph of another run."""
        self._flow = flow
        self.figure.visible = flow is not None
        if flow is None:
            return
        nodes = flow.graph.nodes
        count = len(nodes)
        shown_rows = min(count, _MOST_ROWS)
        self.figure.height = 46 + _ROW * shown_rows
        self.figure.y_range.update(start=shown_rows - 0.4, end=-0.6, bounds=(-0.6, count + 0.5))
        axis = self.figure.yaxis[0]
        axis.ticker = FixedTicker(ticks=list(range(count)))
        axis.major_label_overrides = {at: _short(node.path) for at, node in enumerate(nodes)}
        given = [node.class_name == "data" for node in nodes]
        self._nodes.data = {
            "row": list(range(count)),
            "path": [shown(node.path) for node in nodes],
            "kind": [shown(node.class_name) for node in nodes],
            "marker": ["square" if one else "circle" for one in given],
            "colour": [ORANGE if one else "#8a949e" for one in given],
        }
        lanes = max((edge.lane for edge in flow.graph.edges), default=0)
        self.figure.x_range.start = -0.35 - 0.22 * lanes
        rows, left, right = [], [], []
        for place, measure in enumerate(flow.measures):
            for row in range(count):
                known = finite(measure.values[row])
                known = known[known > 0]
                if known.size:
                    ends = _place(measure, place, np.array([known.min(), known.max()]))
                    rows.append(row)
                    left.append(ends[0])
                    right.append(ends[1])
        self._spread.data = {"row": rows, "left": left, "right": right}

    def show_step(self, step: int) -> None:
        """Draw the sizes of a step; of the last one before it where it has none."""
        flow = self._flow
        if flow is None or not flow.steps.size:
            return
        column = max(int(np.searchsorted(flow.steps, step, side="right")) - 1, 0)
        count = len(flow.graph.nodes)
        data: dict[str, list[Any]] = {
            key: [] for key in ("x", "row", "marker", "colour", "path", "measure", "value")
        }
        for place, measure in enumerate(flow.measures):
            values = measure.values[:, column]
            broken = measure.broken[:, column]
            across = _place(measure, place, values)
            for row in range(count):
                if not (np.isfinite(values[row]) or broken[row]):
                    continue
                bad, zero = bool(broken[row]), values[row] == 0
                data["x"].append(float(across[row]))
                data["row"].append(row)
                data["marker"].append("x" if bad else "circle_cross" if zero else "circle")
                data["colour"].append(NON_FINITE if bad else measure.colour)
                data["path"].append(shown(flow.graph.nodes[row].path))
                data["measure"].append(measure.title)
                data["value"].append(float("nan") if bad else float(values[row]))
        self._points.data = data
        for source, measure, side in (
            (self._forward, flow.forward, -0.09),
            (self._backward, flow.backward, 0.09),
        ):
            source.data = _edges(flow, measure, column, side)

    def show_layer(self, layer: str | None) -> None:
        """Mark the chosen layer, and bring it into sight."""
        if self._flow is None:
            return
        rows = [row for row, node in enumerate(self._flow.graph.nodes) if node.path == layer]
        self._chosen.data = {"row": rows}
        count = len(self._flow.graph.nodes)
        if rows and count > _MOST_ROWS:
            low, high = sorted((self.figure.y_range.start, self.figure.y_range.end))
            if not low < rows[0] < high - 0.5:
                top = float(np.clip(rows[0] - _MOST_ROWS / 2, -0.6, count - _MOST_ROWS))
                self.figure.y_range.update(start=top + _MOST_ROWS + 0.2, end=top)

    def _tapped(self, event: Any) -> None:
        if self._flow is None:
            return
        row = round(event.y)
        if 0 <= row < len(self._flow.graph.nodes):
            node = self._flow.graph.nodes[row]
            if node.class_name != "data":
                self._on_layer(node.path)


def _place(
    measure: Measure, place: int, values: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return where values are in the measure's column, on a logarithmic scale of the whole run."""
    known = finite(measure.values)
    known = known[known > 0]
    left = _FIRST + place * (_WIDTH + _GAP)
    if not known.size:
        return np.full(values.shape, left)
    low, high = np.log10([known.min(), known.max()])
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (
            (np.log10(values) - low) / (high - low) if high > low else np.full(values.shape, 0.5)
        )
    share = np.clip(np.nan_to_num(share, nan=0.0, neginf=0.0, posinf=1.0), 0.0, 1.0)
    return np.asarray(left + _WIDTH * share)


def _edges(flow: FlowData, measure: Measure, column: int, side: float) -> dict[str, Any]:
    known = finite(measure.values)
    known = known[known > 0]
    xs, ys, widths = [], [], []
    for edge in flow.graph.edges:
        out = -0.25 - 0.22 * (edge.lane - 1) + 0.4 * side
        if edge.lane:
            xs.append([-0.1, out, out, -0.1])
            ys.append(
                [edge.source + 0.12, edge.source + 0.3, edge.target - 0.3, edge.target - 0.12]
            )
        else:
            xs.append([side, side])
            ys.append([edge.source + 0.22, edge.target - 0.22])
        node = edge.source if measure is flow.forward else edge.target
        value = measure.values[node, column]
        width = _LINES[0]
        if known.size and np.isfinite(value) and value > 0:
            low, high = np.log10([known.min(), known.max()])
            share = (np.log10(value) - low) / (high - low) if high > low else 0.5
            width += (_LINES[1] - _LINES[0]) * float(share)
        widths.append(width)
    return {"xs": xs, "ys": ys, "width": widths}


def _short(path: str) -> str:
    name = shown(path.partition("/")[2] or path)
    return name if len(name) <= _MOST_LETTERS else f"…{name[1 - _MOST_LETTERS :]}"
