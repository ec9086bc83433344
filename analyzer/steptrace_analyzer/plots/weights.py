"""The weights view: a layer's weights at a step beside the update of that step."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.plots.images import add_colour_bar, draw_tiling, non_finite_note
from steptrace_analyzer.plots.limits import finite, symmetric_norm
from steptrace_analyzer.plots.style import label, new_figure, say, set_title, style
from steptrace_analyzer.plots.subject import (
    choose_layer,
    choose_step,
    has_step,
    layer_class,
    layer_tensors,
    model_name,
    read_step,
)
from steptrace_analyzer.plots.tiles import lay_out
from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import get_tensor, has_tensor, recorded_steps

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from steptrace_analyzer.trace.open import TraceOrPath

_WIDTH: Final = 11.0
_HEIGHTS: Final = (1.6, 4.6)
_STRIP_HEIGHT: Final = 1.15


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
    """

    path: str
    value: npt.NDArray[np.float64]
    update: npt.NDArray[np.float64] | None


@dataclasses.dataclass(frozen=True)
class WeightsData:
    """What the weights view draws."""

    model: str
    layer: str
    class_name: str
    step: int
    variables: tuple[VariableImage, ...]


def weights_data(
    trace: TraceOrPath, layer: str | None = None, step: int | None = None
) -> WeightsData:
    """Read a layer's weights and their update at one step.

    Parameters and errors are those of :func:`plot_weights`.
    """
    trace = opened(trace)
    path = choose_layer(
        trace, "weights", layer, lambda tensor: get_tensor(trace, "weights", tensor).ndim > 2
    )
    tensors = layer_tensors(trace, "weights", path)
    first = get_tensor(trace, "weights", tensors[0])
    chosen = choose_step(first, step)
    if step is None and has_tensor(trace, "updates", tensors[0]):
        updated = recorded_steps(get_tensor(trace, "updates", tensors[0]))
        chosen = updated[-1] if updated else chosen
    variables = tuple(
        VariableImage(
            path=tensor,
            value=read_step(trace, "weights", tensor, chosen),
            update=read_step(trace, "updates", tensor, chosen)
            if has_step(trace, "updates", tensor, chosen)
            else None,
        )
        for tensor in tensors
    )
    return WeightsData(model_name(trace), path, layer_class(trace, path), chosen, variables)


def draw_weights(data: WeightsData) -> Figure:
    """Draw one row per variable: its values, and their update in the same layout."""
    with style():
        heights = [_height(variable.value, data.class_name) for variable in data.variables]
        figure = new_figure(_WIDTH, 1.0 + sum(heights))
        grid = figure.subplots(len(heights), 2, squeeze=False, height_ratios=heights)
        notes: list[str] = []
        for (left, right), variable in zip(grid, data.variables, strict=True):
            name = variable.path.removeprefix(f"{data.layer}/")
            shape = " x ".join(str(n) for n in variable.value.shape)
            left.set_title(label(f"{name} ({shape})" if shape else name))
            notes += _draw(left, variable.value, data.class_name, name)
            if variable.update is None:
                say(right, f"no update of {name} is recorded at step {data.step}")
            else:
                right.set_title(label(f"update of {name} by step {data.step}"))
                notes += _draw(right, variable.update, data.class_name, f"update of {name}")
        title = (data.model, f"step {data.step}", data.layer)
        set_title(figure, title, list(dict.fromkeys(notes)))
    return figure


def _height(values: npt.NDArray[np.float64], class_name: str) -> float:
    """Return inches for a variable's row: a wide image needs less height than a tall one."""
    rows, columns = lay_out(values, class_name).image.shape
    return float(np.clip(0.8 + 3.6 * rows / columns, *_HEIGHTS)) if rows > 1 else _STRIP_HEIGHT


def _draw(axes: Axes, values: npt.NDArray[np.float64], class_name: str, name: str) -> list[str]:
    """Draw one variable with its colour bar; return what the reader must know."""
    tiling = lay_out(values, class_name)
    norm = symmetric_norm(tiling.image[~tiling.gap])
    image = draw_tiling(axes, tiling, norm)
    clipped = bool((np.abs(finite(tiling.image)) > (norm.vmax or 0.0)).any())
    add_colour_bar(axes, image, name, clipped=clipped)
    bad = int(np.count_nonzero(~np.isfinite(values)))
    return ([tiling.note] if tiling.note else []) + ([non_finite_note(name, bad)] if bad else [])


def plot_weights(trace: TraceOrPath, layer: str | None = None, step: int | None = None) -> Figure:
    """Draw a layer's weights at a step beside the update of that step.

    The colours of both are centred on 0. A convolution's kernel is drawn as one tile per filter.
    Large variables are reduced by largest magnitude, which the figure then says.

    Parameters
    ----------
    trace
        A trace, or its path.
    layer
        A layer's path or its last segments; the first layer with a kernel if not given.
    step
        A recorded step, negative ones from the end; the last one with an update if not given.

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
    return draw_weights(weights_data(trace, layer, step))
