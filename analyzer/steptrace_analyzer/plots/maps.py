"""The maps view: one input of a batch, a layer's activation of it, and what the loss says back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.colors import Normalize

from steptrace_analyzer.plots.images import add_colour_bar, draw_tiling, non_finite_note
from steptrace_analyzer.plots.limits import finite, padded_range, symmetric_norm
from steptrace_analyzer.plots.style import (
    DIVERGING,
    SEQUENTIAL,
    label,
    new_figure,
    set_title,
    style,
)
from steptrace_analyzer.plots.subject import (
    choose_layer,
    choose_step,
    has_step,
    layer_tensors,
    model_name,
    read_step,
)
from steptrace_analyzer.plots.tiles import Tiling, grid, grid_columns, lay_out
from steptrace_analyzer.trace.select import get_tensor, tensor_paths
from steptrace_schema.errors import TraceError
from steptrace_schema.names import BATCH_SIZE, OUTPUT, X_GRADIENT, X, Y

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_MAPS: Final = 64
"""A layer with more channels shows those with the largest activations."""


@dataclasses.dataclass(frozen=True)
class MapsData:
    """What the maps view draws, all of one sample at one step.

    Parameters
    ----------
    model, layer, step, sample
        What it is of.
    output
        The layer's output, dims (height, width, channel), (time, unit) or (unit,).
    output_gradient
        d loss / d output, same dims; None where not recorded.
    gradient_of
        What it is the gradient of: ``"output"``, or another tensor of the layer that stands for it,
        such as the ``"logits"`` that a loss is computed from.
    x
        The input, in the shape the model gets; None where not recorded.
    x_gradient
        d loss / d x, same shape; None where not recorded.
    target
        What the sample should give, as text; empty where not recorded.
    """

    model: str
    layer: str
    step: int
    sample: int
    output: npt.NDArray[np.float64]
    output_gradient: npt.NDArray[np.float64] | None
    gradient_of: str
    x: npt.NDArray[np.float64] | None
    x_gradient: npt.NDArray[np.float64] | None
    target: str


def maps_data(
    trace: xr.DataTree,
    layer: str | None = None,
    step: int | None = None,
    sample: int = 0,
) -> MapsData:
    """Read a layer's activation of one sample of a batch, its gradient, and the input.

    Parameters
    ----------
    trace
        An opened trace.
    layer
        A layer's path or its last segments; the first one whose output is an image if not given.
    step
        A recorded step, negative ones from the end; the last one if not given.
    sample
        Row of the step's batch, counted from 0.

    Returns
    -------
    MapsData

    Raises
    ------
    UnknownNameError, StepNotRecordedError
        If the trace has no such layer or step.
    TraceError
        If the step has no such sample.
    """
    path = _choose_layer(trace, layer)
    tensor = get_tensor(trace, "activations", f"{path}/{OUTPUT}")
    chosen = choose_step(tensor, step)
    samples = int(tensor.shape[1])
    if has_step(trace, "scalars", BATCH_SIZE, chosen):
        samples = min(samples, int(read_step(trace, "scalars", BATCH_SIZE, chosen)))
    if not 0 <= sample < samples:
        msg = (
            f"step {chosen} of {trace.name or 'the trace'} has no sample {sample}; "
            f"recorded are samples 0 to {samples - 1} of its batch"
        )
        raise TraceError(msg)

    def read(kind: Any, name: str) -> npt.NDArray[np.float64] | None:
        known = has_step(trace, kind, name, chosen)
        return read_step(trace, kind, name, chosen)[sample] if known else None

    output = read("activations", f"{path}/{OUTPUT}")
    assert output is not None  # its step was resolved above
    gradients = layer_tensors(trace, "activation_gradients", path)
    gradients.sort(key=lambda name: name != f"{path}/{OUTPUT}")
    gradient_of = gradients[0] if gradients else f"{path}/{OUTPUT}"
    target = read("inputs", Y)
    return MapsData(
        model=model_name(trace),
        layer=path,
        step=chosen,
        sample=sample,
        output=output,
        output_gradient=read("activation_gradients", gradient_of),
        gradient_of=gradient_of.rpartition("/")[2],
        x=read("inputs", X),
        x_gradient=read("inputs", X_GRADIENT),
        target=_target_text(target),
    )


def draw_maps(data: MapsData) -> Figure:
    """Draw the input and its gradient on the left, the layer's output and its gradient beside."""
    with style():
        figure = new_figure(13.0, 5.6)
        cells = figure.add_gridspec(2, 3, width_ratios=(1.0, 1.75, 1.75))
        notes: list[str] = []
        _draw_input(figure.add_subplot(cells[0, 0]), data, notes)
        _draw_saliency(figure.add_subplot(cells[1, 0]), data, notes)
        channels = strongest_channels(data.output, MOST_MAPS)
        if channels.size < data.output.shape[-1] and data.output.ndim > 2:
            notes.append(
                f"{channels.size} of {data.output.shape[-1]} channels are shown, those of the "
                "largest output"
            )
        left, right = figure.add_subplot(cells[:, 1]), figure.add_subplot(cells[:, 2])
        shape = " x ".join(str(n) for n in data.output.shape)
        left.set_title(f"output ({shape})")
        _draw_features(left, data.output, channels, "output", notes)
        right.set_title(label(f"gradient of the {data.gradient_of}"))
        if data.output_gradient is None:
            _say(right, f"the gradient of this output is not recorded at step {data.step}")
        else:
            _draw_features(
                right, data.output_gradient, channels, f"d loss / d {data.gradient_of}", notes
            )
        sample = f"step {data.step}, sample {data.sample}"
        set_title(figure, (data.model, sample, data.layer), list(dict.fromkeys(notes)))
    return figure


def plot_activation_maps(
    trace: xr.DataTree, layer: str | None = None, step: int | None = None, sample: int = 0
) -> Figure:
    """Draw one input of a batch, a layer's activation of it, and the gradients of both.

    The gradient of the loss with respect to the input is drawn as saliency: per pixel the largest
    magnitude over its channels.

    Parameters
    ----------
    trace
        An opened trace.
    layer
        A layer's path or its last segments; the first one whose output is an image if not given.
    step
        A recorded step, negative ones from the end; the last one if not given.
    sample
        Row of the step's batch, counted from 0.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UnknownNameError, StepNotRecordedError
        If the trace has no such layer or step.
    TraceError
        If the step has no such sample.

    Examples
    --------
    >>> plot_activation_maps(open_trace("run.zarr"), "conv2d", step=40)  # doctest: +SKIP
    """
    return draw_maps(maps_data(trace, layer, step, sample))


def strongest_channels(output: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.intp]:
    """Return, ascending, the `count` channels (last axis) with the largest magnitudes."""
    magnitude = np.where(np.isnan(output), np.inf, np.abs(output))
    peaks = magnitude.max(axis=tuple(range(output.ndim - 1)), initial=0.0)
    return np.sort(np.argsort(-peaks, kind="stable")[:count])


def saliency(gradient: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the magnitude of an input's gradient, the largest over the channels of a pixel.

    Parameters
    ----------
    gradient
        d loss / d x of one sample: dims (height, width, channel), or any other, which keep all.
    """
    magnitude = np.abs(gradient)
    return np.asarray(magnitude.max(axis=-1)) if gradient.ndim > 2 else magnitude


def _choose_layer(trace: xr.DataTree, name: str | None) -> str:
    images = [
        path
        for path in tensor_paths(trace, "activations")
        if get_tensor(trace, "activations", path).ndim == 5
    ]
    return choose_layer(trace, "activations", name, lambda path: path in images or not images)


def _target_text(target: npt.NDArray[np.float64] | None) -> str:
    if target is None:
        return ""
    flat = target.reshape(-1)
    if flat.size == 1:
        return f"target {flat[0]:g}"
    is_class = flat.size and np.isin(flat, (0.0, 1.0)).all() and flat.sum() == 1
    return f"target {int(flat.argmax())}" if is_class else ""


def _draw_input(axes: Axes, data: MapsData, notes: list[str]) -> None:
    axes.set_title("input" + (f", {data.target}" if data.target else ""))
    if data.x is None:
        _say(axes, f"the input is not recorded at step {data.step}")
        return
    if data.x.ndim < 2:
        _draw_units(axes, data.x.reshape(-1), "feature", "x")
        return
    picture = _picture(data.x)
    known = finite(picture)
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    inside = low >= 0 and high <= 1
    if not inside:
        notes.append(f"The input is drawn from {low:.3g} (black) to {high:.3g} (white)")
        picture = (picture - low) / ((high - low) or 1.0)
    shown = np.nan_to_num(picture, nan=0.0, posinf=1.0, neginf=0.0)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="auto")
    axes.set(xlabel="width (pixel)", ylabel="height (pixel)")
    if known.size < picture.size:
        notes.append(f"{picture.size - known.size} values of the input are not finite (black)")


def _picture(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return grey (row, column) or RGB (row, column, 3); other channels are averaged."""
    if x.ndim > 3:  # a volume: its middle slice
        x = x[x.shape[0] // 2]
    if x.ndim == 2 or x.shape[-1] == 3:
        return x
    return np.asarray(x.mean(axis=-1))


def _draw_saliency(axes: Axes, data: MapsData, notes: list[str]) -> None:
    axes.set_title("gradient of the input")
    if data.x_gradient is None:
        _say(axes, f"the gradient of the input is not recorded at step {data.step}")
        return
    if data.x_gradient.ndim < 2:
        _draw_units(axes, data.x_gradient.reshape(-1), "feature", "d loss / d x")
        return
    values = saliency(data.x_gradient)
    values = values if values.ndim == 2 else values.max(axis=0)
    gap = np.zeros(values.shape, dtype=bool)
    tiling = Tiling(values, gap, "width (pixel)", "height (pixel)", (), ())
    image = draw_tiling(
        axes, tiling, _positive_norm(values), colours=SEQUENTIAL, interpolation="auto"
    )
    add_colour_bar(axes, image, "|d loss / d x|")
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        notes.append(non_finite_note("input's gradient", bad))


def _draw_features(
    axes: Axes,
    values: npt.NDArray[np.float64],
    channels: npt.NDArray[np.intp],
    name: str,
    notes: list[str],
) -> None:
    if values.ndim < 2:
        _draw_units(axes, values.reshape(-1), "unit", name)
        return
    if values.ndim == 2:
        tiling = lay_out(values)
        tiling = dataclasses.replace(tiling, x_label="unit", y_label="time")
    else:
        tiling = _channel_tiles(values, channels)
    drawn = tiling.image[~tiling.gap]
    signed = bool((finite(drawn) < 0).any())
    norm = symmetric_norm(drawn) if signed else _positive_norm(drawn)
    colours = DIVERGING if signed else SEQUENTIAL
    image = draw_tiling(axes, tiling, norm, colours=colours, interpolation="auto")
    clipped = bool((np.abs(finite(drawn)) > (norm.vmax or 0.0)).any())
    add_colour_bar(axes, image, name, clipped=clipped)
    if tiling.note:
        notes.append(tiling.note)
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        notes.append(non_finite_note(name, bad))


def _channel_tiles(values: npt.NDArray[np.float64], channels: npt.NDArray[np.intp]) -> Tiling:
    note = ""
    while values.ndim > 3:
        values = values[values.shape[0] // 2]
        note = "Of each volume its middle slice is shown"
    tiles = values[..., channels].transpose(2, 0, 1)
    space = max(1, round(0.06 * max(tiles.shape[1:])))
    columns = grid_columns(*tiles.shape)
    image, gap = grid(tiles, columns, space)
    rows = -(-len(channels) // columns)
    pitch_x, pitch_y = tiles.shape[2] + space, tiles.shape[1] + space
    return Tiling(
        image=image,
        gap=gap,
        x_label=f"channels {_row_text(channels, 0, columns)} in the first row, and so on",
        y_label="first channel of the row",
        x_ticks=tuple((i * pitch_x + tiles.shape[2] / 2, "") for i in range(columns)),
        y_ticks=tuple(
            (i * pitch_y + (tiles.shape[1] - 1) / 2, str(channels[i * columns]))
            for i in range(rows)
        ),
        note=note,
    )


def _row_text(channels: npt.NDArray[np.intp], row: int, columns: int) -> str:
    return ", ".join(str(channel) for channel in channels[row * columns : (row + 1) * columns])


def _draw_units(axes: Axes, values: npt.NDArray[np.float64], unit: str, name: str) -> None:
    index = np.arange(values.size)
    known = np.isfinite(values)
    axes.vlines(index[known], 0, values[known], color="#0072B2", linewidth=1.0, alpha=0.7)
    axes.plot(index[known], values[known], "o", color="#0072B2", markersize=2.5)
    axes.axhline(0, color="#777777", linewidth=0.8)
    axes.set(
        xlabel=unit,
        ylabel=label(name),
        xlim=(-0.5 - 0.01 * values.size, values.size * 1.01 - 0.5),
        ylim=padded_range(np.append(values, 0.0), 0.08),
    )


def _positive_norm(values: npt.NDArray[np.float64]) -> Normalize:
    limit = symmetric_norm(values).vmax
    return Normalize(0.0, limit)


def _say(axes: Axes, text: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, label(text), ha="center", va="center", color="#555555", wrap=True)
