"""The sensitivity view: dz/dx of every layer, over the input and over the steps."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_analyzer.plots.images import add_colour_bar, draw_tiling, extend_of, non_finite_note
from steptrace_analyzer.plots.limits import (
    log_norm,
    magnitude_limit,
    set_log_ticks,
    shared_norm,
)
from steptrace_analyzer.plots.model_inputs import saliency
from steptrace_analyzer.plots.norms import LayerNorms, layer_norms
from steptrace_analyzer.plots.style import (
    NON_FINITE,
    SEQUENTIAL,
    drawn_in,
    label,
    new_figure,
    set_title,
    style,
    whole,
)
from steptrace_analyzer.plots.subject import model_name
from steptrace_analyzer.plots.tiles import Tiling
from steptrace_analyzer.trace.described import statistics_table
from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import resolve_step
from steptrace_analyzer.trace.sensitivity import total_gradient

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from steptrace_analyzer.plots.style import Drawable
    from steptrace_analyzer.trace.open import TraceOrPath

MOST_LAYERS: Final = 8
"""Of more layers, so many have pictures, evenly taken; the heat map has all."""

MOST_SAMPLES: Final = 4


@dataclasses.dataclass(frozen=True)
class SensitivityData:
    """What the sensitivity view draws.

    Parameters
    ----------
    model, step
        What it is of.
    layers
        Paths of the layers with pictures, in the order of the model.
    gradients
        Dims (layer, sample, *dims of the input): dz/dx at the step.
    norms
        Norm of dz/dx by layer and step: the stacked total gradient; None without statistics.
    total
        How many layers have a gradient.
    """

    model: str
    step: int
    layers: tuple[str, ...]
    gradients: npt.NDArray[np.float64]
    norms: LayerNorms | None
    total: int


def sensitivity_data(trace: TraceOrPath, step: int | None = None) -> SensitivityData:
    """Read dz/dx of every layer at a step, and its norm at all steps.

    Parameters and errors are those of :func:`plot_sensitivity`.
    """
    trace = opened(trace)
    stacked = total_gradient(trace, -1 if step is None else step)
    names = [str(name) for name in stacked.coords["layer"].to_numpy()]
    places = np.linspace(0, len(names) - 1, min(len(names), MOST_LAYERS)).round().astype(int)
    chosen = stacked.isel({"layer": places, stacked.dims[1]: slice(0, MOST_SAMPLES)})
    has_norms = statistics_table(trace, "probe_gradients") is not None
    return SensitivityData(
        model=model_name(trace),
        step=resolve_step(trace["probe_gradients"], -1 if step is None else step),
        layers=tuple(names[place] for place in places),
        gradients=np.asarray(chosen.compute(scheduler="synchronous").to_numpy(), dtype=np.float64),
        norms=layer_norms(trace, "probe_gradients") if has_norms else None,
        total=len(names),
    )


def draw_sensitivity(data: SensitivityData) -> Figure:
    """Draw layers by samples as pictures over the input, and layers by steps as a heat map."""
    layers, samples = data.gradients.shape[:2]
    flat = data.gradients.ndim < 4
    with style():
        height = 0.75 if flat else 1.45
        figure = new_figure(6.5 + 2.0 * samples, float(np.clip(1.6 + height * layers, 4.0, 16.0)))
        parts: Any = figure.subfigures(1, 2, width_ratios=(2.0 * samples + 1.2, 5.3))
        grid = parts[0].subplots(layers, samples, squeeze=False)
        notes: list[str] = []
        for row, (name, gradient) in enumerate(zip(data.layers, data.gradients, strict=True)):
            pictures = [_picture(sample) for sample in gradient]
            norm = shared_norm([magnitude_limit(p) for p in pictures], signed=False)
            for column, picture in enumerate(pictures):
                axes = grid[row, column]
                gap = np.zeros(picture.shape, dtype=bool)
                tiling = Tiling(picture, gap, "", "", (), (), signed=False, square=not flat)
                image = draw_tiling(axes, tiling, norm)
                if row == 0:
                    axes.set_title(f"probe sample {column}")
                if column == 0:
                    axes.set_ylabel(label(name.rpartition("/")[2]))
                if column == samples - 1:
                    add_colour_bar(axes, image, "|dz/dx|", extend=extend_of(picture, norm))
            bad = int(np.count_nonzero(~np.isfinite(gradient)))
            if bad:
                notes.append(non_finite_note(f"gradient of {name}", bad))
        _draw_total(parts[1].subplots(), data)
        if data.total > layers:
            notes.append(f"Pictures of {layers} of {data.total} layers, evenly taken")
        notes.append(
            "z: of each layer and sample, the unit with the largest mean activation, unless the "
            "policy names one. Over the channels of a pixel, the largest |dz/dx|"
        )
        set_title(figure, (data.model, f"step {data.step}", "sensitivity dz/dx"), notes)
    return figure


def plot_sensitivity(
    trace: TraceOrPath, step: int | None = None, *, figure: Drawable | None = None
) -> Figure:
    """Draw how each layer's output z depends on the input x: dz/dx on the probe.

    Left, layers by samples, each the gradient over the input. Right, the gradients of all layers
    stacked into one, as a heat map of their norms by layer and step.

    Parameters
    ----------
    trace
        A trace that holds the kind ``probe_gradients``, or its path.
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
        If the trace has no such gradients; the message says how to record them.
    StepNotRecordedError
        If the step is not recorded.

    Examples
    --------
    >>> plot_sensitivity(open_trace("run.zarr"), step=40)  # doctest: +SKIP
    """
    with drawn_in(figure):
        return whole(draw_sensitivity(sensitivity_data(trace, step)))


def _picture(gradient: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    values = saliency(gradient)
    while values.ndim > 2:  # a volume: the largest along its depth
        values = values.max(axis=0)
    return values.reshape(1, -1) if values.ndim < 2 else values


def _draw_total(axes: Axes, data: SensitivityData) -> None:
    norms = data.norms
    if norms is None:
        values = np.sqrt((data.gradients**2).sum(axis=tuple(range(1, data.gradients.ndim))))
        names, steps, values = data.layers, np.array([data.step]), values[:, None]
    else:
        names, steps, values = norms.layers, norms.steps, norms.values
    norm = log_norm(values)
    shown = np.ma.masked_array(values, mask=~(values > 0) | ~np.isfinite(values))
    across, down = np.arange(steps.size + 1) - 0.5, np.arange(len(names) + 1) - 0.5
    image = axes.pcolormesh(across, down, shown, cmap=SEQUENTIAL, norm=norm)
    bad = np.argwhere(~np.isfinite(values))
    axes.plot(bad[:, 1], bad[:, 0], "s", color=NON_FINITE, markersize=4, linestyle="none")
    places = np.unique(np.linspace(0, steps.size - 1, min(6, steps.size)).round().astype(int))
    axes.set_xticks(places, [str(steps[place]) for place in places])
    stride = max(1, -(-len(names) // 40))
    axes.set_yticks(
        range(0, len(names), stride), [label(n.rpartition("/")[2]) for n in names[::stride]]
    )
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set(xlabel="training step (optimizer updates)", title="total gradient, stacked by layer")
    bar = axes.figure.colorbar(image, ax=axes, pad=0.02)
    set_log_ticks(bar.ax.yaxis, float(norm.vmin or 0.1), float(norm.vmax or 10.0))
    bar.set_label("|dz/dx| (L2, over samples and input)")
