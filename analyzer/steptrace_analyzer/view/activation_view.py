"""What goes into a layer's activation function against what comes out, as points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Div, HoverTool, Range1d, Span
from bokeh.plotting import figure

from steptrace_analyzer.plots.activation_points import activation_points
from steptrace_analyzer.plots.layer_arrays import nearest_step
from steptrace_analyzer.plots.limits import padded_range
from steptrace_analyzer.plots.style import CATEGORIES, SILVER
from steptrace_analyzer.plots.value_limits import value_limits
from steptrace_analyzer.trace.select import has_tensor
from steptrace_analyzer.view.look import WIDGETS, quiet_figure
from steptrace_analyzer.view.loss_view import RUN_COLOURS
from steptrace_analyzer.view.page_text import html
from steptrace_schema.names import OUTPUT, PREACTIVATION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steptrace_analyzer.view.run import Run

_MOST_POINTS: Final = 1500


class ActivationView:
    """Points of the probe at a step: by sample of one run, or of two runs in their colours."""

    def __init__(self, name: str) -> None:
        self._title = Div(text="", sizing_mode="stretch_width", stylesheets=[WIDGETS])
        self._source = ColumnDataSource({"x": [], "y": [], "sample": [], "unit": [], "colour": []})
        hover = HoverTool(
            tooltips=[
                ("in", "@x{%.4g}"),
                ("out", "@y{%.4g}"),
                ("sample", "@sample"),
                ("unit", "@unit"),
            ],
            formatters={"@x": "printf", "@y": "printf"},
        )
        self.figure = quiet_figure(
            figure(
                name=name,
                height=300,
                sizing_mode="stretch_width",
                x_range=Range1d(-1, 1),
                y_range=Range1d(-1, 1),
                x_axis_label="pre-activation",
                y_axis_label="output",
                tools=["pan", "wheel_zoom", "box_zoom", "reset", hover],
            )
        )
        for dimension in ("height", "width"):
            self.figure.add_layout(
                Span(location=0, dimension=dimension, line_color="#8a949e", line_width=1)
            )
        self.figure.scatter("x", "y", color="colour", alpha=0.65, size=6, source=self._source)
        self.root = column(self._title, self.figure, sizing_mode="stretch_width", visible=False)

    def show_layer(self, runs: Sequence[Run], layer: str) -> None:
        """Show another layer: hide where none of the runs has its pre-activation."""
        having = [run for run in runs if _has(run, layer)]
        self.root.visible = bool(having)
        if not having:
            return
        for part, range_ in ((PREACTIVATION, self.figure.x_range), (OUTPUT, self.figure.y_range)):
            ends: list[float] = []
            for run in having:
                steps = [int(step) for step in run.steps]
                ends += value_limits(run.trace, "probe", [f"{layer}/{part}"], steps, most_read=5)
            low, high = padded_range(np.asarray(ends), 0.04)
            range_.update(start=low, end=high)

    def show_step(self, runs: Sequence[Run], layer: str, step: int, unit: int | None) -> None:
        """Show the points of a step, or of the last one before it that the probe has."""
        if not self.root.visible:
            return
        parts: dict[str, list[Any]] = {key: [] for key in ("x", "y", "sample", "unit", "colour")}
        said: list[str] = []
        for place, run in enumerate(runs):
            at = nearest_step(run.trace, "probe", f"{layer}/{OUTPUT}", step)
            if at is None or not _has(run, layer):
                continue
            before, after = (
                run.rows.read("probe", f"{layer}/{part}", at) for part in (PREACTIVATION, OUTPUT)
            )
            points = activation_points(before, after, at, _MOST_POINTS)
            units = points.unit
            if len(runs) > 1:
                colours = np.full(points.before.size, RUN_COLOURS[place])
            else:
                palette = np.array(CATEGORIES)
                colours = palette[points.sample % len(palette)]
            if unit is not None:
                colours = np.where(units == unit, colours, SILVER)
            order = np.argsort(units == unit, kind="stable") if unit is not None else slice(None)
            parts["x"].append(points.before[order])
            parts["y"].append(points.after[order])
            parts["sample"].append(points.sample[order])
            parts["unit"].append(units[order])
            parts["colour"].append(colours[order])
            zero = float(np.mean(points.after == 0)) if points.after.size else 0.0
            described = run.attributes.layer(layer)
            name = (described.activation if described else None) or "activation function"
            when = "" if at == step else f" at step {at}"
            bad = f", {points.non_finite} not finite" if points.non_finite else ""
            said.append(f"{html(name)}{when}: {zero:.0%} of the outputs are zero{bad}")
        self._source.data = {
            key: np.concatenate(values) if values else [] for key, values in parts.items()
        }
        self._title.text = "<br>".join(said) or "<i>no probe up to this step</i>"


def _has(run: Run, layer: str) -> bool:
    return has_tensor(run.trace, "probe", f"{layer}/{PREACTIVATION}")
