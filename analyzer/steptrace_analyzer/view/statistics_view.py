"""How the values of one of a layer's tensors are distributed, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Div, HoverTool, Range1d, Span
from bokeh.plotting import figure

from steptrace_analyzer.plots.limits import finite, padded_range
from steptrace_analyzer.plots.reduce import envelope
from steptrace_analyzer.plots.style import NON_FINITE, ORANGE
from steptrace_analyzer.trace.described import described_tensors, statistics_table
from steptrace_analyzer.trace.select import layer_of, recorded_steps
from steptrace_analyzer.view.look import WIDGETS, quiet_figure
from steptrace_analyzer.view.loss_view import RUN_COLOURS
from steptrace_analyzer.view.page_text import html
from steptrace_schema.names import KINDS, STATISTIC, TENSOR

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.view.run import Run
    from steptrace_schema.names import Kind

_BANDS: Final = (("p01", "p99"), ("p05", "p95"), ("p25", "p75"))
_READ: Final = ("p01", "p05", "p25", "p50", "p75", "p95", "p99", "min", "max", "nan", "inf")
_BLOCKS: Final = 300
_CLIPPED: Final = 3.0  # times the usual range, beyond which a step leaves the axis


class StatisticsView:
    """Percentiles of a tensor of one run, and the median of a second one."""

    def __init__(self, x_range: Any) -> None:
        self._title = Div(text="", sizing_mode="stretch_width", stylesheets=[WIDGETS])
        self._sources = [ColumnDataSource({n: [] for n in ("step", *_READ)}) for _ in range(2)]
        self._bad = ColumnDataSource({"step": [], "value": []})
        hover = HoverTool(
            tooltips=[
                ("step", "@step"),
                ("median", "@p50{%.4g}"),
                ("98 %", "@p01{%.4g} to @p99{%.4g}"),
                ("all", "@min{%.4g} to @max{%.4g}"),
            ],
            formatters={f"@{name}": "printf" for name in _READ},
            mode="vline",
        )
        self.figure = quiet_figure(
            figure(
                name="statistics",
                height=260,
                sizing_mode="stretch_width",
                x_range=x_range,
                y_range=Range1d(-1, 1),
                x_axis_label="training step",
                y_axis_label="value",
                tools=["pan", "wheel_zoom", "reset", hover],
            )
        )
        for low, high in _BANDS:
            self.figure.varea(
                x="step", y1=low, y2=high, source=self._sources[0], color=RUN_COLOURS[0], alpha=0.2
            )
        for name in ("min", "max"):
            self.figure.line(x="step", y=name, source=self._sources[0], color="#8a949e")
        lines = [
            self.figure.line(
                x="step", y="p50", source=source, color=colour, line_width=2, line_dash=dash
            )
            for source, colour, dash in zip(
                self._sources, RUN_COLOURS, ("solid", "dashed"), strict=True
            )
        ]
        hover.renderers = lines[:1]
        self.figure.scatter(
            "step", "value", source=self._bad, marker="x", size=9, color=NON_FINITE, line_width=2
        )
        self._span = Span(location=0, dimension="height", line_color=ORANGE, line_width=2)
        self.figure.add_layout(self._span)
        self.root = column(self._title, self.figure, sizing_mode="stretch_width")

    def show_tensor(self, runs: Sequence[Run], kind: Kind, path: str | None) -> None:
        """Draw a tensor of one run or two; nothing where it has no statistics."""
        ranges: list[npt.NDArray[np.float64]] = []
        for place, source in enumerate(self._sources):
            data = _read(runs[place].trace, kind, path) if place < len(runs) else None
            source.data = data or {name: [] for name in ("step", *_READ)}
            if data is not None:
                ranges += [data["p01"], data["p99"]]
        first = self._sources[0].data
        self.figure.visible = path is not None and bool(len(first["step"]))
        if not self.figure.visible:
            self._title.text = f"<i>no statistics of {html(kind)} of this layer</i>"
            return
        ends = np.concatenate([first["min"], first["max"]])
        low, high = padded_range(ends, 0.05)
        usual = finite(np.concatenate(ranges))
        note = ""
        if usual.size:
            inner = np.percentile(usual, [5, 95])
            reach = _CLIPPED * max(float(inner[1] - inner[0]), 1e-30)
            if high - low > 2 * reach:
                middle = float(inner.mean())
                low, high = max(low, middle - reach), min(high, middle + reach)
                note = "; some steps go beyond the axis, zoom with the wheel"
        self.figure.y_range.update(start=low, end=high)
        bad = np.asarray(first["nan"]) + np.asarray(first["inf"]) > 0
        steps = np.asarray(first["step"])[bad]
        self._bad.data = {"step": steps, "value": np.full(steps.size, (low + high) / 2)}
        self._title.text = (
            f"<b>{html(kind)}: {html(path or '')}</b> <i>median, 50 %, 90 %, 98 %, all{note}</i>"
        )

    def show_step(self, step: int) -> None:
        """Mark the step that all figures show."""
        self._span.location = step


def described(trace: xr.DataTree, layer: str) -> dict[Kind, list[str]]:
    """Return, by kind, the tensors of a layer that have statistics."""
    found: dict[Kind, list[str]] = {}
    for kind in KINDS:
        table = statistics_table(trace, kind)
        if table is not None:
            paths = [path for path in described_tensors(table) if layer_of(path) == layer]
            if paths:
                found[kind] = paths
    return found


def _read(trace: xr.DataTree, kind: Kind, path: str | None) -> dict[str, Any] | None:
    table = statistics_table(trace, kind)
    if table is None or path is None or path not in described_tensors(table):
        return None
    mine = table.sel({TENSOR: path, STATISTIC: list(_READ)})
    values = np.asarray(mine.to_numpy(), dtype=np.float64)
    steps = np.asarray(recorded_steps(table), dtype=np.int64)
    highest = envelope(values[:, _READ.index("max")], _BLOCKS)
    lowest = envelope(values[:, _READ.index("min")], _BLOCKS)
    kept = np.union1d(highest, lowest)
    shown = np.where(np.isfinite(values[kept]), values[kept], np.nan)
    return {"step": steps[kept], **{name: shown[:, at] for at, name in enumerate(_READ)}}
