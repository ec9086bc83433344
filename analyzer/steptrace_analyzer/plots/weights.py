"""The weights view: a layer's weights at a step beside the update and the gradient of that step."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_analyzer.plots.images import add_colour_bar, draw_tiling, extend_of, non_finite_note
from steptrace_analyzer.plots.limits import magnitude_limit, shared_norm
from steptrace_analyzer.plots.style import drawn_in, label, new_figure, say, set_title, style, whole
from steptrace_analyzer.plots.subject import (
    choose_layer,
    choose_step,
    has_step,
    layer_classes,
    layer_tensors,
    model_name,
    read_step,
)
from steptrace_analyzer.plots.tiles import lay_out
from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import get_tensor, has_tensor, recorded_steps, resolve_step
from steptrace_schema.names import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    from steptrace_analyzer.plots.style import Drawable
    from steptrace_analyzer.trace.open import TraceOrPath

KINDS_SHOWN: Final[tuple[Kind, ...]] = ("weights", "updates", "gradients")
"""What is drawn of a variable, from left to right."""

Ranges = dict[tuple[Kind, str], "Normalize"]
"""Colour ranges by kind and path of the variable."""

_WORDS: Final[dict[Kind, str]] = {
    "weights": "{name}",
    "updates": "update of {name}",
    "gradients": "gradient of {name}",
}
_WIDTH: Final = 14.5
_HEIGHTS: Final = (2.0, 4.4)
_STRIP_HEIGHT: Final = 1.25
_MOST_RANGED: Final = 9  # steps that are read for a common colour range


@dataclasses.dataclass(frozen=True)
class VariableImage:
    """One variable of a layer at a step.

    Parameters
    ----------
    path
        Below ``weights``.
    value
        The weights used at the step, any shape.
    update
        What the step added to them, same shape; None where it is not recorded.
    gradient
        d loss / d value, same shape; None where it is not recorded.
    """

    path: str
    value: npt.NDArray[np.float64]
    update: npt.NDArray[np.float64] | None
    gradient: npt.NDArray[np.float64] | None = None

    def of(self, kind: Kind) -> npt.NDArray[np.float64] | None:
        """Return the values of one of :data:`KINDS_SHOWN`."""
        by_kind = {"weights": self.value, "updates": self.update, "gradients": self.gradient}
        return by_kind[kind]


@dataclasses.dataclass(frozen=True)
class WeightsData:
    """What the weights view draws.

    Parameters
    ----------
    model, layer, step
        What it is of.
    classes
        Classes of the layer and of the layers around it, the innermost first.
    variables
        In the order of the trace.
    ranges
        The colour ranges, the same for all steps that are to be compared.
    """

    model: str
    layer: str
    classes: tuple[str, ...]
    step: int
    variables: tuple[VariableImage, ...]
    ranges: Mapping[tuple[Kind, str], Normalize]


def weights_data(
    trace: TraceOrPath,
    layer: str | None = None,
    step: int | None = None,
    *,
    compare: Sequence[int] = (),
    ranges: Ranges | None = None,
) -> WeightsData:
    """Read a layer's weights with their update and gradient at one step.

    Parameters
    ----------
    trace, layer, step, compare
        As in :func:`plot_weights`; so are the errors.
    ranges
        Colour ranges of :func:`weights_ranges`, where they are known already.
    """
    trace = opened(trace)
    path = _layer(trace, layer)
    tensors = layer_tensors(trace, "weights", path)
    first = get_tensor(trace, "weights", tensors[0])
    chosen = choose_step(first, step)
    if step is None and has_tensor(trace, "updates", tensors[0]):
        updated = recorded_steps(get_tensor(trace, "updates", tensors[0]))
        chosen = updated[-1] if updated else chosen
    if ranges is None:
        ranges = weights_ranges(trace, path, [chosen, *compare])
    variables = tuple(
        VariableImage(tensor, *(_read(trace, kind, tensor, chosen) for kind in KINDS_SHOWN))  # type: ignore[arg-type]
        for tensor in tensors
    )
    classes = layer_classes(trace, path)
    return WeightsData(model_name(trace), path, classes, chosen, variables, ranges)


def weights_ranges(
    trace: TraceOrPath, layer: str | None = None, steps: Sequence[int] = ()
) -> Ranges:
    """Return one colour range for each kind and variable, over several steps.

    Parameters
    ----------
    trace, layer
        As in :func:`plot_weights`.
    steps
        Recorded steps; of more than nine, nine that are evenly spread are read.
    """
    trace = opened(trace)
    path = _layer(trace, layer)
    classes = layer_classes(trace, path)
    tensors = layer_tensors(trace, "weights", path)
    numbers = sorted({resolve_step(get_tensor(trace, "weights", tensors[0]), s) for s in steps})
    places = np.linspace(0, len(numbers) - 1, min(len(numbers), _MOST_RANGED)).round().astype(int)
    ranges: Ranges = {}
    for tensor in tensors:
        for kind in KINDS_SHOWN:
            limits, signed = [], True
            for place in places:
                values = _read(trace, kind, tensor, numbers[place])
                if values is not None:
                    tiling = lay_out(values, classes, tensor)
                    signed = tiling.signed
                    limits.append(magnitude_limit(tiling.image[~tiling.gap]))
            ranges[kind, tensor] = shared_norm(limits, signed=signed)
    return ranges


def draw_weights(data: WeightsData) -> Figure:
    """Draw one row per variable: its values, their update and their gradient in one layout."""
    with style():
        heights = [_height(variable.value, data) for variable in data.variables]
        kinds = [k for k in KINDS_SHOWN if k != "gradients" or _has_gradients(data)]
        figure = new_figure(_WIDTH * len(kinds) / 3 + 0.5, 1.1 + sum(heights))
        grid = figure.subplots(len(heights), len(kinds), squeeze=False, height_ratios=heights)
        notes: list[str] = []
        for row, variable in zip(grid, data.variables, strict=True):
            name = variable.path.removeprefix(f"{data.layer}/")
            for axes, kind in zip(row, kinds, strict=True):
                words = _WORDS[kind].format(name=name)
                values = variable.of(kind)
                if values is None:
                    say(axes, f"no {words.replace(name, '')}{name} is recorded at step {data.step}")
                    continue
                shape = " x ".join(str(n) for n in values.shape)
                title = {
                    "weights": f"{name} ({shape})" if shape else name,
                    "updates": f"{words} by step {data.step}",
                    "gradients": f"{words} at step {data.step}",
                }[kind]
                axes.set_title(label(title))
                notes += draw_variable(axes, values, data, kind, variable.path)
        about = (data.model, f"step {data.step}", data.layer)
        set_title(figure, about, list(dict.fromkeys(notes)))
    return figure


def draw_variable(
    axes: Axes,
    values: npt.NDArray[np.float64],
    data: WeightsData,
    kind: Kind,
    path: str,
    **options: Any,
) -> list[str]:
    """Draw one variable with its colour bar; return what the reader must know.

    Parameters
    ----------
    axes
        Where to draw.
    values
        Of the variable.
    data
        What it belongs to; gives the layout and the colour range.
    kind, path
        Which of the colour ranges.
    **options
        Of :func:`steptrace_analyzer.plots.images.draw_tiling`.
    """
    tiling = lay_out(values, data.classes, path)
    norm = data.ranges[kind, path]
    image = draw_tiling(axes, tiling, norm, **options)
    name = _WORDS[kind].format(name=path.removeprefix(f"{data.layer}/"))
    unit = "d loss / d " + path.rpartition("/")[2] if kind == "gradients" else name
    text = unit if tiling.signed else f"norm of {unit}"
    add_colour_bar(axes, image, text, extend=extend_of(tiling.image[~tiling.gap], norm))
    bad = int(np.count_nonzero(~np.isfinite(values)))
    return ([tiling.note] if tiling.note else []) + ([non_finite_note(name, bad)] if bad else [])


def plot_weights(
    trace: TraceOrPath,
    layer: str | None = None,
    step: int | None = None,
    *,
    compare: Sequence[int] = (),
    figure: Drawable | None = None,
) -> Figure:
    """Draw a layer's weights at a step beside the update and the gradient of that step.

    The colours are centred on 0. A convolution's kernel is drawn as one tile per filter, an
    attention's variable as one per head, an LSTM's as one per gate. Large variables are reduced by
    largest magnitude, which the figure then says.

    Parameters
    ----------
    trace
        A trace, or its path.
    layer
        A layer's path or its last segments; the first layer with a kernel if not given.
    step
        A recorded step, negative ones from the end; the last one with an update if not given.
    compare
        Other recorded steps whose pictures have the same colour ranges.
    figure
        Where to draw: a figure, or a part of one as its ``subfigures`` are; a new one if not given.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UnknownNameError, StepNotRecordedError
        If the trace has no such layer or step.

    Examples
    --------
    >>> plot_weights(open_trace("run.zarr"), "dense", step=40)  # doctest: +SKIP
    """
    with drawn_in(figure):
        return whole(draw_weights(weights_data(trace, layer, step, compare=compare)))


def _layer(trace: xr.DataTree, layer: str | None) -> str:
    return choose_layer(
        trace, "weights", layer, lambda tensor: get_tensor(trace, "weights", tensor).ndim > 2
    )


def _read(trace: xr.DataTree, kind: Kind, tensor: str, step: int) -> npt.NDArray[np.float64] | None:
    return read_step(trace, kind, tensor, step) if has_step(trace, kind, tensor, step) else None


def _has_gradients(data: WeightsData) -> bool:
    return any(variable.gradient is not None for variable in data.variables)


def _height(values: npt.NDArray[np.float64], data: WeightsData) -> float:
    """Return inches for a variable's row: a strip needs less height than an image."""
    tiling = lay_out(values, data.classes)
    rows, columns = tiling.image.shape
    if rows == 1:
        return _STRIP_HEIGHT
    if not tiling.square:
        return _HEIGHTS[1] if rows > 12 else _HEIGHTS[0]
    return float(np.clip(0.8 + 3.6 * rows / columns, *_HEIGHTS))
