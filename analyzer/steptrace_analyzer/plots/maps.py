"""The maps view: one input of a batch, a layer's activation of it, and what the loss says back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_analyzer.plots.images import (
    add_colour_bar,
    draw_tiling,
    extend_of,
    non_finite_note,
)
from steptrace_analyzer.plots.limits import finite, symmetric_norm
from steptrace_analyzer.plots.model_inputs import (
    MOST_INPUTS,
    ModelInput,
    draw_input,
    draw_saliency,
    draw_units,
    positive_norm,
    read_inputs,
    read_target,
)
from steptrace_analyzer.plots.style import (
    DIVERGING,
    SEQUENTIAL,
    drawn_in,
    label,
    new_figure,
    say,
    set_title,
    style,
    whole,
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
from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import get_tensor, tensor_paths
from steptrace_schema.errors import TraceError
from steptrace_schema.names import BATCH_SIZE, OUTPUT, X

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from steptrace_analyzer.plots.style import Drawable
    from steptrace_analyzer.trace.open import TraceOrPath

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
    inputs
        What went into the model, with the gradient of each; empty where nothing is recorded.
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
    inputs: tuple[ModelInput, ...]
    target: str


def maps_data(
    trace: TraceOrPath,
    layer: str | None = None,
    step: int | None = None,
    sample: int = 0,
) -> MapsData:
    """Read a layer's activation of one sample of a batch, its gradient, and the input.

    Parameters and errors are those of :func:`plot_activation_maps`.
    """
    trace = opened(trace)
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
    return MapsData(
        model=model_name(trace),
        layer=path,
        step=chosen,
        sample=sample,
        output=output,
        output_gradient=read("activation_gradients", gradient_of),
        gradient_of=gradient_of.rpartition("/")[2],
        inputs=read_inputs(trace, chosen, sample),
        target=read_target(trace, chosen, sample),
    )


def draw_maps(data: MapsData) -> Figure:
    """Draw the inputs and their gradients on the left, the layer's output and its own beside."""
    with style():
        inputs = data.inputs[:MOST_INPUTS] or (ModelInput(X, None, None),)
        columns = len(inputs)
        figure = new_figure(10.1 + 2.9 * columns, 5.6)
        ratios = (*[1.0] * columns, 1.75, 1.75)
        cells = figure.add_gridspec(2, columns + 2, width_ratios=ratios)
        notes: list[str] = []
        if columns < len(data.inputs):
            notes.append(f"The first {columns} of {len(data.inputs)} inputs are shown")
        for column, given in enumerate(inputs):
            title = "input" if len(inputs) == 1 else given.name
            if data.target and column == 0:
                title += f", {data.target}"
            draw_input(figure.add_subplot(cells[0, column]), given, title, data.step, notes)
            draw_saliency(figure.add_subplot(cells[1, column]), given, data.step, notes)
        channels = strongest_channels(data.output, MOST_MAPS)
        if channels.size < data.output.shape[-1] and data.output.ndim > 2:
            notes.append(
                f"{channels.size} of {data.output.shape[-1]} channels are shown, those of the "
                "largest output"
            )
        left, right = (figure.add_subplot(cells[:, columns + at]) for at in (0, 1))
        shape = " x ".join(str(n) for n in data.output.shape)
        left.set_title(f"output ({shape})")
        _draw_features(left, data.output, channels, "output", notes)
        right.set_title(label(f"gradient of the {data.gradient_of}"))
        if data.output_gradient is None:
            say(right, f"the gradient of this output is not recorded at step {data.step}")
        else:
            _draw_features(
                right, data.output_gradient, channels, f"d loss / d {data.gradient_of}", notes
            )
        sample = f"step {data.step}, sample {data.sample}"
        set_title(figure, (data.model, sample, data.layer), list(dict.fromkeys(notes)))
    return figure


def plot_activation_maps(
    trace: TraceOrPath,
    layer: str | None = None,
    step: int | None = None,
    sample: int = 0,
    *,
    figure: Drawable | None = None,
) -> Figure:
    """Draw one sample of a batch, a layer's activation of it, and the gradients of both.

    The gradient of the loss with respect to the input is drawn as saliency: per pixel the largest
    magnitude over its channels.

    Parameters
    ----------
    trace
        A trace, or its path.
    layer
        A layer's path or its last segments; the first one whose output is an image if not given.
    step
        A recorded step, negative ones from the end; the last one if not given.
    sample
        Row of the step's batch, counted from 0.
    figure
        Where to draw: a figure, or a part of one as its ``subfigures`` are; a new one if not given.

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
    with drawn_in(figure):
        return whole(draw_maps(maps_data(trace, layer, step, sample)))


def strongest_channels(output: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.intp]:
    """Return, ascending, the `count` channels (last axis) with the largest magnitudes."""
    magnitude = np.where(np.isnan(output), np.inf, np.abs(output))
    peaks = magnitude.max(axis=tuple(range(output.ndim - 1)), initial=0.0)
    return np.sort(np.argsort(-peaks, kind="stable")[:count])


def _choose_layer(trace: xr.DataTree, name: str | None) -> str:
    images = [
        path
        for path in tensor_paths(trace, "activations")
        if get_tensor(trace, "activations", path).ndim == 5
    ]
    return choose_layer(trace, "activations", name, lambda path: path in images or not images)


def _draw_features(
    axes: Axes,
    values: npt.NDArray[np.float64],
    channels: npt.NDArray[np.intp],
    name: str,
    notes: list[str],
) -> None:
    if values.ndim < 2:
        draw_units(axes, values.reshape(-1), "unit", name)
        return
    if values.ndim == 2:
        tiling = lay_out(values)
        tiling = dataclasses.replace(tiling, x_label="unit", y_label="time")
    else:
        tiling = channel_tiles(values, channels)
    drawn = tiling.image[~tiling.gap]
    signed = bool((finite(drawn) < 0).any())
    norm = symmetric_norm(drawn) if signed else positive_norm(drawn)
    colours = DIVERGING if signed else SEQUENTIAL
    image = draw_tiling(axes, tiling, norm, colours=colours, interpolation="auto")
    add_colour_bar(axes, image, name, extend=extend_of(drawn, norm))
    if tiling.note:
        notes.append(tiling.note)
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        notes.append(non_finite_note(name, bad))


def channel_tiles(values: npt.NDArray[np.float64], channels: npt.NDArray[np.intp]) -> Tiling:
    """Lay channels (last axis) out as tiles beside each other; of a volume its middle slice."""
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
        square=True,
    )


def _row_text(channels: npt.NDArray[np.intp], row: int, columns: int) -> str:
    return ", ".join(str(channel) for channel in channels[row * columns : (row + 1) * columns])
