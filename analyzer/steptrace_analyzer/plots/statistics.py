"""The statistics view: how the values of a layer's tensors are distributed, step by step."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.plots.limits import padded_range
from steptrace_analyzer.plots.lines import draw_line, set_step_axis
from steptrace_analyzer.plots.style import (
    BLUE,
    GREY,
    VERMILION,
    drawn_in,
    label,
    new_figure,
    set_title,
    style,
    whole,
)
from steptrace_analyzer.plots.subject import model_name
from steptrace_analyzer.trace.described import described_tensors, statistics_table
from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import layer_of, recorded_steps, resolve_among
from steptrace_schema.names import KINDS

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from steptrace_analyzer.plots.style import Drawable
    from steptrace_analyzer.trace.open import TraceOrPath
    from steptrace_schema.names import Kind, StatisticName

_COLUMNS: Final = 3
_BANDS: Final[tuple[tuple[StatisticName, StatisticName, float], ...]] = (
    ("p01", "p99", 0.15),
    ("p05", "p95", 0.2),
    ("p25", "p75", 0.3),
)
_DRAWN: Final = (*(name for band in _BANDS for name in band[:2]), "p50", "min", "max", "nan", "inf")


@dataclasses.dataclass(frozen=True)
class TensorStatistics:
    """Statistics of one tensor: arrays with dims (step,), by the statistic's name."""

    kind: Kind
    path: str
    steps: npt.NDArray[np.int64]
    values: dict[str, npt.NDArray[np.float64]]

    @property
    def non_finite_steps(self) -> npt.NDArray[np.int64]:
        """Steps at which an element is NaN or infinite."""
        return self.steps[(self.values["nan"] > 0) | (self.values["inf"] > 0)]


@dataclasses.dataclass(frozen=True)
class StatisticsData:
    """What the statistics view draws."""

    model: str
    layer: str
    tensors: tuple[TensorStatistics, ...]


def statistics_data(trace: TraceOrPath, layer: str) -> StatisticsData:
    """Read the recorded statistics of all tensors of a layer.

    Parameters and errors are those of :func:`plot_statistics`.
    """
    trace = opened(trace)
    tables = {kind: statistics_table(trace, kind) for kind in KINDS}
    described = {
        kind: described_tensors(table) for kind, table in tables.items() if table is not None
    }
    layers = dict.fromkeys(layer_of(path) for paths in described.values() for path in paths)
    chosen = resolve_among(trace, layer, list(layers), "layer with statistics")
    tensors: list[TensorStatistics] = []
    for kind, paths in described.items():
        table = tables[kind]
        columns = [i for i, path in enumerate(paths) if layer_of(path) == chosen]
        if table is None or not columns:
            continue
        drawn = table.isel(tensor=columns).sel(statistic=list(_DRAWN))
        values = np.asarray(drawn.to_numpy(), dtype=np.float64)
        steps = np.asarray(recorded_steps(table), dtype=np.int64)
        tensors += [
            TensorStatistics(
                kind, paths[column], steps, dict(zip(_DRAWN, values[:, i].T, strict=True))
            )
            for i, column in enumerate(columns)
        ]
    return StatisticsData(model_name(trace), chosen, tuple(tensors))


def draw_statistics(data: StatisticsData) -> Figure:
    """Draw one panel per tensor: percentile bands around the median, extremes as thin lines."""
    rows = -(-len(data.tensors) // _COLUMNS)
    with style():
        figure = new_figure(12.0, 1.3 + 2.2 * rows)
        grid = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
        for axes, tensor in zip(grid, data.tensors, strict=False):
            _draw_bands(axes, tensor)
            name = tensor.path.removeprefix(f"{data.layer}/")
            axes.set_title(label(f"{tensor.kind}: {name}"))
        for axes in grid[len(data.tensors) :]:
            axes.set_axis_off()
        for axes in grid[max(0, len(data.tensors) - _COLUMNS) : len(data.tensors)]:
            axes.set_xlabel("training step (optimizer updates)")
        notes = [
            "Median, and bands that hold 50 %, 90 % and 98 % of a tensor's values; "
            "thin lines are the smallest and the largest value"
        ]
        if any(tensor.non_finite_steps.size for tensor in data.tensors):
            notes.append("Crosses: steps with values that are not finite")
        set_title(figure, (data.model, data.layer, "values by step"), notes)
    return figure


def plot_statistics(trace: TraceOrPath, layer: str, *, figure: Drawable | None = None) -> Figure:
    """Draw how the values of each of a layer's tensors are distributed, step by step.

    Parameters
    ----------
    trace
        A trace, or its path. Only its statistics are read.
    layer
        A layer's path or its last segments.
    figure
        Where to draw: a figure, or a part of one as its ``subfigures`` are; a new one if not given.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UnknownNameError
        If there are no statistics of such a layer; the message lists the layers that have any.

    Examples
    --------
    >>> plot_statistics(open_trace("run.zarr"), "dense")  # doctest: +SKIP
    """
    with drawn_in(figure):
        return whole(draw_statistics(statistics_data(trace, layer)))


def _draw_bands(axes: Axes, tensor: TensorStatistics) -> None:
    steps, values = tensor.steps, tensor.values
    for low, high, alpha in _BANDS:
        below, above = _known(values[low]), _known(values[high])
        axes.fill_between(steps, below, above, color=BLUE, alpha=alpha, linewidth=0)
    for name in ("min", "max"):
        draw_line(axes, steps, values[name], color=GREY, linewidth=0.7)
    draw_line(axes, steps, values["p50"], color=BLUE)
    axes.set_ylim(*padded_range(np.concatenate([values["min"], values["max"]])))
    bad = tensor.non_finite_steps
    if bad.size:
        axes.plot(
            bad,
            np.full(bad.size, 0.04),
            "x",
            color=VERMILION,
            clip_on=False,
            transform=axes.get_xaxis_transform(),
        )
    axes.grid(axis="y")
    set_step_axis(axes, steps)


def _known(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)
