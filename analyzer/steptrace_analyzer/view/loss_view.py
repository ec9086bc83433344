"""The loss and the gradient's norm of the runs by step, with findings as marks to jump to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, HoverTool, Span
from bokeh.plotting import figure

from steptrace_analyzer.plots.limits import is_wide
from steptrace_analyzer.plots.reduce import envelope
from steptrace_analyzer.plots.style import BLUE, NON_FINITE, ORANGE, VERMILION
from steptrace_analyzer.view.look import quiet_figure
from steptrace_analyzer.view.page_text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from steptrace_analyzer.anomalies.finding import Finding
    from steptrace_analyzer.view.run import Run

RUN_COLOURS: Final = (BLUE, VERMILION)
"""Of the first and of the second run, in every figure."""

_BLOCKS: Final = 600
_NEAR: Final = 0.012  # share of the axis within which a click means a mark


class LossView:
    """The curves of up to two runs; a click goes to a step.

    Parameters
    ----------
    runs
        The runs that may be shown first.
    on_step
        Called with the step that was clicked on.
    """

    def __init__(self, runs: Sequence[Run], on_step: Callable[[int], None]) -> None:
        self._on_step = on_step
        curves = [run.loss.loss for run in runs if run.loss is not None]
        wide = bool(curves) and is_wide(np.concatenate(curves))
        hover = HoverTool(tooltips=[("step", "@step"), ("loss", "@value{%.5g}")], mode="vline")
        hover.formatters = {"@value": "printf"}
        told = HoverTool(tooltips=[("step", "@step"), ("finding", "@text")])
        self.figure = quiet_figure(
            figure(
                name="loss",
                height=190,
                sizing_mode="stretch_width",
                y_axis_type="log" if wide else "linear",
                y_axis_label="loss",
                tools=["xpan", "xwheel_zoom", "xbox_zoom", "reset", hover, told],
            )
        )
        norm_hover = HoverTool(tooltips=[("step", "@step"), ("norm", "@value{%.5g}")], mode="vline")
        norm_hover.formatters = {"@value": "printf"}
        self.norms = quiet_figure(
            figure(
                name="norms",
                height=130,
                sizing_mode="stretch_width",
                x_range=self.figure.x_range,
                y_axis_type="log",
                y_axis_label="gradient norm",
                x_axis_label="training step",
                tools=["xpan", "xwheel_zoom", "xbox_zoom", "reset", norm_hover],
            )
        )
        self._loss, self._norm, self._bad = [], [], []
        lines = []
        for place, colour in enumerate(RUN_COLOURS):
            loss, norm, bad = (ColumnDataSource({"step": [], "value": []}) for _ in range(3))
            dash = "solid" if place == 0 else "dashed"
            line = {"x": "step", "y": "value", "line_color": colour, "line_dash": dash}
            lines.append(self.figure.line(source=loss, line_width=1.6, **line))
            norm_line = self.norms.line(source=norm, line_width=1.4, **line)
            norm_hover.renderers = [*(norm_hover.renderers if place else []), norm_line]
            self.figure.scatter(
                "step", "value", source=bad, marker="x", size=9, line_color=NON_FINITE, line_width=2
            )
            self._loss.append(loss)
            self._norm.append(norm)
            self._bad.append(bad)
        hover.renderers = lines
        self._validation = ColumnDataSource({"step": [], "value": []})
        self.figure.scatter("step", "value", source=self._validation, size=5, color=BLUE, alpha=0.7)
        self._marks = ColumnDataSource({"step": [], "value": [], "text": []})
        marks = self.figure.scatter(
            "step",
            "value",
            source=self._marks,
            name="findings",
            marker="inverted_triangle",
            size=13,
            fill_color=ORANGE,
            line_color="#1c2530",
        )
        told.renderers = [marks]
        self._spans = [
            Span(location=0, dimension="height", line_color=ORANGE, line_width=2, line_alpha=0.8)
            for _ in range(2)
        ]
        for shown_in, span in zip((self.figure, self.norms), self._spans, strict=True):
            shown_in.add_layout(span)
            shown_in.on_event("tap", self._tapped)
        self.root = column(self.figure, self.norms, sizing_mode="stretch_width")

    def show_runs(self, runs: Sequence[Run]) -> None:
        """Draw the curves of one run or two."""
        for place in range(len(RUN_COLOURS)):
            data = runs[place].loss if place < len(runs) else None
            empty: dict[str, Any] = {"step": [], "value": []}
            if data is None:
                for sources in (self._loss, self._norm, self._bad):
                    sources[place].data = empty
                continue
            self._loss[place].data = _curve(data.steps, data.loss)
            bad = data.non_finite_steps
            known = data.loss[np.isfinite(data.loss)]
            height = float(np.median(known)) if known.size else 1.0
            self._bad[place].data = {"step": bad, "value": np.full(bad.size, height)}
            norms = data.norms
            self._norm[place].data = (
                _curve(norms.steps, np.where(norms.total > 0, norms.total, np.nan))
                if norms is not None and norms.layers
                else empty
            )
            if place == 0:
                validation = data.validation
                self._validation.data = (
                    {"step": validation.steps, "value": validation.values} if validation else empty
                )
        self.norms.visible = any(len(source.data["step"]) for source in self._norm)
        self.figure.xaxis[0].axis_label = None if self.norms.visible else "training step"

    def show_findings(self, run: Run, findings: Sequence[Finding]) -> None:
        """Mark the steps at which something was found on the curve of the first run."""
        steps, texts = [], []
        for step in sorted({finding.step for finding in findings}):
            told = [finding.explanation for finding in findings if finding.step == step]
            steps.append(step)
            texts.append(shown(told[0] + (f" (and {len(told) - 1} more)" if told[1:] else ""), 300))
        heights: npt.NDArray[np.float64] = np.ones(len(steps))
        if run.loss is not None and len(steps):
            known = np.isfinite(run.loss.loss)
            if known.any():
                heights = np.interp(steps, run.loss.steps[known], run.loss.loss[known])
        self._marks.data = {"step": steps, "value": heights, "text": texts}

    def show_step(self, step: int) -> None:
        """Mark the step that all figures show."""
        for span in self._spans:
            span.location = step

    def _tapped(self, event: Any) -> None:
        marks = np.asarray(self._marks.data["step"], dtype=np.float64)
        low, high = self.figure.x_range.start, self.figure.x_range.end
        if marks.size and low is not None and high is not None:
            nearest = marks[np.abs(marks - event.x).argmin()]
            if abs(nearest - event.x) <= max(_NEAR * (high - low), 0.5):
                self._on_step(int(nearest))
                return
        self._on_step(round(event.x))


def _curve(steps: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> dict[str, Any]:
    kept = envelope(values, _BLOCKS)
    return {"step": steps[kept], "value": np.where(np.isfinite(values[kept]), values[kept], np.nan)}
