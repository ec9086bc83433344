"""The loss view: loss, gradient norms, learning rate and logged numbers by step."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_analyzer.plots.limits import finite, is_wide, padded_range
from steptrace_analyzer.plots.lines import draw_line, draw_smoothed, set_step_axis, smoothing
from steptrace_analyzer.plots.norms import LayerNorms, layer_norms
from steptrace_analyzer.plots.style import (
    BLACK,
    BLUE,
    CATEGORIES,
    GREY,
    ORANGE,
    SILVER,
    VERMILION,
    counted,
    drawn_in,
    label,
    new_figure,
    set_title,
    style,
    whole,
)
from steptrace_analyzer.plots.subject import model_name
from steptrace_analyzer.trace.described import statistics_table
from steptrace_analyzer.trace.open import opened, trace_attributes
from steptrace_analyzer.trace.select import (
    format_steps,
    get_tensor,
    has_tensor,
    recorded_steps,
    tensor_paths,
)
from steptrace_schema.human import one_line
from steptrace_schema.names import BATCH_INDEX, EPOCH, LEARNING_RATE, LOSS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from steptrace_analyzer.plots.style import Drawable
    from steptrace_analyzer.plots.subject import Located
    from steptrace_analyzer.trace.open import TraceOrPath
    from steptrace_schema.names import Kind

_MOST_NAMED_LAYERS: Final = 8
_HUES: Final = 6  # beyond so many lines, dashes tell them apart
_MOST_EPOCH_LINES: Final = 12
_MOST_LOGGED, _LONGEST_NAME = 4, 32
_LOW: Final = 1.1  # inches of a panel with one line


@dataclasses.dataclass(frozen=True)
class Curve:
    """Numbers at some steps: both dims (step,), the values float64."""

    steps: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class LossData:
    """What the loss view draws.

    Parameters
    ----------
    model, loss_name
        What was trained, and the name of the loss function.
    steps
        Dims (step,).
    loss, learning_rate, epoch, batch
        Dims (step,), float64.
    norms
        Norms of the gradients by layer and step; None where none are recorded.
    anomaly_steps
        Steps to be marked, ascending.
    validation
        Validation loss, of the weights of its steps; None where there is none.
    logged
        Numbers that the training logged, by name.
    """

    model: str
    loss_name: str
    steps: npt.NDArray[np.int64]
    loss: npt.NDArray[np.float64]
    learning_rate: npt.NDArray[np.float64]
    epoch: npt.NDArray[np.float64]
    batch: npt.NDArray[np.float64]
    norms: LayerNorms | None
    anomaly_steps: tuple[int, ...]
    validation: Curve | None
    logged: dict[str, Curve]

    @property
    def epoch_starts(self) -> npt.NDArray[np.int64]:
        """The first step of each later epoch, recorded or not, as the batches count."""
        at = np.flatnonzero(np.abs(np.diff(self.epoch)) > 0) + 1
        first = self.steps[at] - np.nan_to_num(self.batch[at]).astype(np.int64)
        return np.maximum(first, self.steps[at - 1] + 1)

    @property
    def drawn_epoch_starts(self) -> npt.NDArray[np.int64]:
        """Some of them, evenly taken, so that their lines stay apart."""
        starts = self.epoch_starts
        return starts[:: max(1, -(-starts.size // _MOST_EPOCH_LINES))]

    @property
    def non_finite_steps(self) -> npt.NDArray[np.int64]:
        """Steps whose loss is NaN or infinite."""
        return self.steps[~np.isfinite(self.loss)]


def loss_data(trace: TraceOrPath, anomalies: Iterable[Located] = ()) -> LossData:
    """Read loss, gradient norms, learning rate, epoch, validation and what was logged.

    Parameters and errors are those of :func:`plot_loss`.
    """
    trace = opened(trace)
    loss = get_tensor(trace, "scalars", LOSS)
    has_norms = statistics_table(trace, "gradients") is not None

    def read(name: str) -> npt.NDArray[np.float64]:
        if not has_tensor(trace, "scalars", name):
            return np.full(loss.shape, np.nan)
        return np.asarray(get_tensor(trace, "scalars", name).to_numpy(), dtype=np.float64)

    return LossData(
        model=model_name(trace),
        loss_name=one_line(trace_attributes(trace).loss or "loss", _LONGEST_NAME),
        steps=np.asarray(recorded_steps(loss), dtype=np.int64),
        loss=read(LOSS),
        learning_rate=read(LEARNING_RATE),
        epoch=read(EPOCH),
        batch=read(BATCH_INDEX),
        norms=layer_norms(trace, "gradients") if has_norms else None,
        anomaly_steps=tuple(sorted({anomaly.step for anomaly in anomalies})),
        validation=_series(trace, "validation", LOSS)
        if has_tensor(trace, "validation", LOSS)
        else None,
        logged={
            name: _series(trace, "logged", name)
            for name in tensor_paths(trace, "logged")
            if get_tensor(trace, "logged", name).ndim == 1
        },
    )


def _series(trace: xr.DataTree, kind: Kind, path: str) -> Curve:
    array = get_tensor(trace, kind, path)
    steps = np.asarray(recorded_steps(array), dtype=np.int64)
    values = np.asarray(array.to_numpy(), dtype=np.float64)
    given = ~np.isnan(values)  # where nothing was logged under the name
    return Curve(steps[given], values[given])


def draw_loss(data: LossData) -> Figure:
    """Draw loss, gradient norms, learning rate and logged numbers over one axis of steps."""
    with style():
        norms = data.norms if data.norms is not None and data.norms.layers else None
        logged = list(data.logged.items())[:_MOST_LOGGED]
        heights = (3.0, *([3.0] if norms is not None else []), _LOW, *[_LOW] * len(logged))
        figure = new_figure(11.0, 1.3 + sum(heights))
        panels = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
        _draw_loss(panels[0], data)
        if norms is not None:
            _draw_norms(panels[1], norms)
        rates, *others = panels[1 if norms is None else 2 :]
        draw_line(rates, data.steps, data.learning_rate, color=BLUE, drawstyle="steps-post")
        rates.set_ylabel("learning\nrate")
        rates.set_ylim(*padded_range(data.learning_rate, 0.2))
        if is_wide(data.learning_rate):
            rates.set_yscale("log")
            rates.autoscale(axis="y")
        for axes, (name, series) in zip(others, logged, strict=True):
            draw_line(axes, series.steps, series.values, color=BLACK)
            axes.set_ylabel(label(f"{name}\n(logged)"))
            axes.set_ylim(*padded_range(series.values, 0.2))
        for axes in panels:
            axes.grid(axis="y")
            for step in data.drawn_epoch_starts:
                axes.axvline(step - 0.5, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
            for step in data.anomaly_steps:
                axes.axvline(step, color=ORANGE, linewidth=5, alpha=0.25, zorder=0)
        every_step = [data.steps, *(series.steps for _, series in logged)]
        if data.validation is not None:
            every_step.append(data.validation.steps)
        set_step_axis(panels[-1], np.concatenate(every_step))
        panels[-1].set_xlabel("training step (optimizer updates)")
        steps = format_steps([int(step) for step in data.steps]) or "none"
        set_title(figure, (data.model, f"steps {steps}", "loss"), _notes(data))
    return figure


def plot_loss(
    trace: TraceOrPath, anomalies: Iterable[Located] = (), *, figure: Drawable | None = None
) -> Figure:
    """Draw the loss at each step, with that of the validation and what goes with it.

    Below it are gradient norms, learning rate and logged numbers; lines mark the epochs.

    Parameters
    ----------
    trace
        A trace, or its path.
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
        If the trace has no loss.

    Examples
    --------
    >>> plot_loss(open_trace("run.zarr"))  # doctest: +SKIP
    """
    with drawn_in(figure):
        return whole(draw_loss(loss_data(trace, anomalies)))


def _draw_loss(axes: Axes, data: LossData) -> None:
    validation = data.validation
    both = data.loss
    draw_smoothed(axes, data.steps, data.loss, color=BLACK, label="loss of the step's batch")
    if validation is not None:
        both = np.concatenate([data.loss, validation.values])
        axes.plot(
            validation.steps,
            validation.values,
            "o-",
            color=BLUE,
            markersize=4,
            label="validation loss of the step's weights",
        )
    axes.set_ylabel(label(f"loss\n({data.loss_name})" if data.loss_name != "loss" else "loss"))
    if is_wide(both):
        axes.set_yscale("log")
    else:
        axes.set_ylim(*padded_range(both, 0.08))
    top = axes.get_xaxis_transform()
    bad, found = data.non_finite_steps, data.anomaly_steps
    marks: dict[str, Any] = {"clip_on": False, "linestyle": "none", "transform": top, "zorder": 5}
    if found:
        axes.plot(found, [1.04] * len(found), "v", color=ORANGE, label="anomaly", **marks)
    if bad.size:
        text = f"loss not finite ({counted(bad.size, 'step')})"
        axes.plot(bad, [0.03] * bad.size, "x", color=VERMILION, label=text, **marks)
    if found or bad.size or validation is not None:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.06), borderaxespad=0.0, ncols=4)


def _draw_norms(axes: Axes, norms: LayerNorms) -> None:
    total = _positive(norms.total)
    values = _positive(norms.values)
    named = _named_layers(norms)
    if len(norms.layers) > _MOST_NAMED_LAYERS:
        with np.errstate(invalid="ignore"):
            known = np.isfinite(values)
            low = np.where(known, values, np.inf).min(axis=0)
            high = np.where(known, values, -np.inf).max(axis=0)
        some = known.any(axis=0)
        axes.fill_between(
            norms.steps,
            np.where(some, low, np.nan),
            np.where(some, high, np.nan),
            color=SILVER,
            alpha=0.5,
            linewidth=0,
            label=f"each of {len(norms.layers)} layers",
        )
    for place, (index, name) in enumerate(named.items()):
        draw_smoothed(
            axes,
            norms.steps,
            values[index],
            color=CATEGORIES[place % _HUES],
            linestyle="-" if place < _HUES else "--",
            linewidth=1.0,
            label=label(name),
        )
    draw_smoothed(axes, norms.steps, total, color=BLACK, label="all layers")
    if finite(total).size:
        axes.set_yscale("log")
    axes.set_ylabel("gradient norm\n(L2, d loss / d weight)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.0)


def _named_layers(norms: LayerNorms) -> dict[int, str]:
    """Return the layers that have a line, by their place: all, or the ends and the extremes."""
    count = len(norms.layers)
    if count <= _MOST_NAMED_LAYERS:
        return dict(enumerate(norms.layers))
    usual = np.full(count, np.nan)
    for layer, row in enumerate(_positive(norms.values)):
        known = finite(row)
        usual[layer] = np.median(known) if known.size else np.nan
    why: dict[int, list[str]] = {}
    why.setdefault(0, []).append("first")
    why.setdefault(count - 1, []).append("last")
    if np.isfinite(usual).any():
        why.setdefault(int(np.nanargmax(usual)), []).append("largest")
        why.setdefault(int(np.nanargmin(usual)), []).append("smallest")
    return {at: f"{norms.layers[at]} ({', '.join(words)})" for at, words in why.items()}


def _positive(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(values > 0, values, np.nan)


def _notes(data: LossData) -> list[str]:
    notes = []
    if len(data.logged) > _MOST_LOGGED:
        notes.append(
            f"Only the first {_MOST_LOGGED} of {len(data.logged)} logged numbers are drawn"
        )
    starts, drawn = data.epoch_starts.size, data.drawn_epoch_starts.size
    if starts:
        notes.append("Dotted lines: a new epoch begins")
    if starts > drawn:
        notes.append(f"Every {-(-starts // _MOST_EPOCH_LINES)}th of {starts} is drawn")
    window = smoothing(data.loss.size)
    if window > 1:
        notes.append(f"Lines: mean of {window} steps. Bands: all values")
    if data.norms is not None and data.norms.layers:
        total = data.norms.total
        recorded = data.norms.recorded.all(axis=0)
        zero = int((total == 0).sum())
        bad = int((~np.isfinite(total) & recorded).sum())
        if zero:
            notes.append(f"The gradient is zero at {counted(zero, 'step')}")
        if bad:
            notes.append(f"The gradient is not finite at {counted(bad, 'step')}")
    return notes
