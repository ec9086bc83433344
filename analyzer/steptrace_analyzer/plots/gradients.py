"""The gradients view: the gradient's norm, layer by step, and its profile over the layers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from steptrace_analyzer.plots.limits import log_axis_range, log_norm, set_log_ticks
from steptrace_analyzer.plots.norms import layer_norms
from steptrace_analyzer.plots.style import (
    BLUE,
    GREY,
    NON_FINITE,
    NOT_RECORDED,
    ORANGE,
    SEQUENTIAL,
    ZERO,
    counted,
    drawn_in,
    label,
    new_figure,
    set_title,
    style,
    whole,
)
from steptrace_analyzer.plots.subject import model_name
from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import format_steps

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from steptrace_analyzer.plots.norms import LayerNorms
    from steptrace_analyzer.plots.style import Drawable
    from steptrace_analyzer.plots.subject import Located
    from steptrace_analyzer.trace.open import TraceOrPath

_MOST_COLUMNS: Final = 600
_MOST_NAMES: Final = 45
_QUANTILES: Final = (0.1, 0.5, 0.9)


@dataclasses.dataclass(frozen=True)
class GradientsData:
    """What the gradients view draws.

    Parameters
    ----------
    model
        The model's name.
    norms
        Norms by layer and step.
    anomaly_steps
        Steps to be marked, ascending.
    """

    model: str
    norms: LayerNorms
    anomaly_steps: tuple[int, ...]

    @property
    def profile(self) -> npt.NDArray[np.float64]:
        """10 %, 50 % and 90 % quantiles over the steps with a finite norm; dims (3, layer)."""
        known = np.where(np.isfinite(self.norms.values), self.norms.values, np.nan)
        result = np.full((len(_QUANTILES), known.shape[0]), np.nan)
        for layer, values in enumerate(known):
            values = values[np.isfinite(values)]
            if values.size:
                result[:, layer] = np.quantile(values, _QUANTILES)
        return result


def gradients_data(trace: TraceOrPath, anomalies: Iterable[Located] = ()) -> GradientsData:
    """Read the norms of the gradients of all layers at all steps.

    Parameters and errors are those of :func:`plot_gradients`.
    """
    trace = opened(trace)
    return GradientsData(
        model=model_name(trace),
        norms=layer_norms(trace, "gradients"),
        anomaly_steps=tuple(sorted({anomaly.step for anomaly in anomalies})),
    )


def draw_gradients(data: GradientsData) -> Figure:
    """Draw the heat map, first layer at the top, and beside it the profile over the layers."""
    norms = data.norms
    layers = len(norms.layers)
    with style():
        figure = new_figure(11.5, float(np.clip(2.3 + 0.28 * layers, 3.8, 14.0)))
        heat, side = figure.subplots(1, 2, sharey=True, width_ratios=(2.9, 1.1))
        values, recorded, block = _reduce(norms)
        colours = log_norm(values)
        extent = (-0.5, max(norms.steps.size, 1) - 0.5, layers - 0.5, -0.5)
        where = {"aspect": "auto", "extent": extent}
        zero, bad = recorded & (values == 0), recorded & ~np.isfinite(values)
        shown = np.ma.masked_array(values, mask=~recorded | bad | (values <= 0))
        image = heat.imshow(shown, cmap=SEQUENTIAL, norm=colours, **where)
        kinds = (
            (zero, ZERO, "zero"),
            (bad, NON_FINITE, "not finite"),
            (~recorded, NOT_RECORDED, "not recorded"),
        )
        for cells, colour, _ in kinds:
            if cells.any():
                flat = np.ma.masked_array(np.ones(cells.shape), mask=~cells)
                heat.imshow(flat, cmap=ListedColormap([colour]), **where)
        _mark_anomalies(heat, data)
        heat.set_ylim(max(layers, 1) - 0.5, -0.5)
        stride = max(1, -(-layers // _MOST_NAMES))
        heat.set_yticks(range(0, layers, stride), [label(name) for name in norms.layers[::stride]])
        heat.set_xlabel("training step (optimizer updates)")
        heat.xaxis.set_major_locator(MaxNLocator(integer=True))
        heat.xaxis.set_major_formatter(FuncFormatter(_step_formatter(norms.steps)))
        heat.set_title("norm by layer and step")
        _draw_profile(side, data)
        bar = figure.colorbar(image, ax=heat, location="right", pad=0.02, fraction=0.05)
        set_log_ticks(bar.ax.yaxis, float(colours.vmin or 0.0), float(colours.vmax or 0.0))
        bar.set_label("gradient norm (L2)")
        patches = [
            Patch(
                facecolor=colour,
                edgecolor=GREY,
                label=f"{name} ({counted(int(cells.sum()), 'cell')})",
            )
            for cells, colour, name in kinds
            if cells.any()
        ]
        if patches:
            figure.legend(handles=patches, loc="outside lower right", ncols=len(patches))
        steps = format_steps([int(step) for step in norms.steps]) or "none"
        notes = []
        if block > 1:
            notes.append(
                f"{norms.steps.size} steps: each column is the largest norm of {block} steps"
            )
        set_title(figure, (data.model, f"steps {steps}", "gradients"), notes)
    return figure


def plot_gradients(
    trace: TraceOrPath, anomalies: Iterable[Located] = (), *, figure: Drawable | None = None
) -> Figure:
    """Draw the norm of each layer's gradient at each step as a heat map, with logarithmic colours.

    Zero, not finite and not recorded cells have colours of their own. The profile beside it shows
    each layer's median norm and its 10 % to 90 % range over the steps.

    Parameters
    ----------
    trace
        A trace, or its path. Only its statistics are read.
    anomalies
        What :func:`steptrace_analyzer.diagnose` found; their steps are marked.
    figure
        Where to draw: a figure, or a part of one as its ``subfigures`` are; a new one if not given.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UnknownNameError
        If the trace has no gradients.

    Examples
    --------
    >>> plot_gradients(open_trace("run.zarr"))  # doctest: +SKIP
    """
    with drawn_in(figure):
        return whole(draw_gradients(gradients_data(trace, anomalies)))


def _reduce(norms: LayerNorms) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], int]:
    """Join neighbouring steps by their largest norm; one that is not finite is the largest."""
    count = norms.steps.size
    block = max(1, -(-count // _MOST_COLUMNS))
    if not norms.values.size:
        return np.full((1, 1), np.nan), np.zeros((1, 1), dtype=bool), 1
    if block == 1:
        return norms.values, norms.recorded, 1
    starts = np.arange(0, count, block)
    values = np.where(norms.recorded, norms.values, -1.0)
    reduced = np.maximum.reduceat(values, starts, axis=1)  # NaN propagates
    return reduced, np.logical_or.reduceat(norms.recorded, starts, axis=1), block


def _mark_anomalies(axes: Axes, data: GradientsData) -> None:
    columns = np.flatnonzero(np.isin(data.norms.steps, data.anomaly_steps))
    if columns.size:
        axes.plot(
            columns,
            np.full(columns.size, 1.0),
            "v",
            color=ORANGE,
            clip_on=False,
            transform=axes.get_xaxis_transform(),
            label="anomaly",
        )
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1)


def _draw_profile(axes: Axes, data: GradientsData) -> None:
    low, middle, high = np.where(data.profile > 0, data.profile, np.nan)
    rows = np.arange(len(data.norms.layers))
    known = np.isfinite(middle)
    axes.hlines(
        rows[known],
        np.where(np.isfinite(low), low, middle)[known],
        high[known],
        color=BLUE,
        alpha=0.35,
        linewidth=5,
    )
    axes.plot(middle[known], rows[known], "o-", color=BLUE, markersize=4, linewidth=1)
    if known.any():
        drawn = np.concatenate([np.fmin(low, middle), high])[np.tile(known, 2)]
        axes.set_xscale("log")
        axes.set_xlim(*log_axis_range(drawn))
        set_log_ticks(axes.xaxis, *log_axis_range(drawn))
    axes.set_xlabel("gradient norm (L2)")
    axes.set_title("median and 10-90 % range")
    axes.grid(axis="x")
    axes.tick_params(labelleft=False)


def _step_formatter(steps: npt.NDArray[np.int64]) -> Any:
    """Columns are recorded steps, which need not be consecutive: label them by their number."""

    def format_column(position: float, _: int | None) -> str:
        column = round(position)
        is_column = 0 <= column < steps.size and abs(position - column) < 0.01
        return str(steps[column]) if is_column else ""

    return format_column
