"""The strip view: a layer's weights and their updates at several steps beside each other."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.plots.images import (
    draw_tiling,
    extend_of,
    non_finite_note,
    set_bar_ticks,
)
from steptrace_analyzer.plots.style import drawn_in, label, new_figure, say, set_title, style, whole
from steptrace_analyzer.plots.tiles import lay_out
from steptrace_analyzer.plots.weights import weights_data, weights_ranges
from steptrace_analyzer.trace.open import opened
from steptrace_schema.errors import StepNotRecordedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from steptrace_analyzer.plots.style import Drawable
    from steptrace_analyzer.plots.weights import WeightsData
    from steptrace_analyzer.trace.open import TraceOrPath
    from steptrace_schema.names import Kind

MOST_STEPS: Final = 12
"""Of more steps, so many are drawn, evenly spread."""

_KINDS: Final[tuple[Kind, ...]] = ("weights", "updates", "gradients")
_WORDS: Final = {"weights": "", "updates": "update of ", "gradients": "gradient of "}
_MOST_VARIABLES: Final = 2


@dataclasses.dataclass(frozen=True)
class StripData:
    """What the strip view draws: the weights of each step, with common colour ranges."""

    steps: tuple[WeightsData, ...]
    asked: int
    """How many steps were asked for."""


def strip_data(
    trace: TraceOrPath, layer: str | None = None, steps: Sequence[int] = ()
) -> StripData:
    """Read a layer's weights with update and gradient at several steps.

    Parameters and errors are those of :func:`plot_strip`.
    """
    trace = opened(trace)
    if not steps:
        msg = "no step is given that could be drawn"
        raise StepNotRecordedError(msg)
    numbers = list(dict.fromkeys(steps))
    places = np.linspace(0, len(numbers) - 1, min(len(numbers), MOST_STEPS)).round().astype(int)
    chosen = [numbers[place] for place in places]
    ranges = weights_ranges(trace, layer, chosen)
    shown = tuple(weights_data(trace, layer, step, ranges=ranges) for step in chosen)
    return StripData(shown, len(numbers))


def draw_strip(data: StripData) -> Figure:
    """Draw one column per step; in each the variables, their updates and their gradients."""
    first = data.steps[0]
    rows = [
        (kind, place, variable.path)
        for place, variable in enumerate(first.variables[:_MOST_VARIABLES])
        for kind in _KINDS
        if any(step.variables[place].of(kind) is not None for step in data.steps)
    ]
    heights = [_height(first, place) for _, place, _ in rows]
    columns = len(data.steps)
    with style():
        figure = new_figure(max(1.5 * columns + 1.8, 6.0), 1.3 + sum(heights))
        grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
        notes: list[str] = []
        for line, (kind, place, path) in zip(grid, rows, strict=True):
            name = _WORDS[kind] + path.removeprefix(f"{first.layer}/")
            norm = first.ranges[kind, path]
            image, drawn = None, []
            for axes, step in zip(line, data.steps, strict=True):
                values = step.variables[place].of(kind)
                if values is None:
                    say(axes, "not\nrecorded")
                    continue
                tiling = lay_out(values, step.classes, path)
                image = draw_tiling(axes, tiling, norm)
                drawn.append(tiling.image[~tiling.gap])
                axes.set(xticks=[], yticks=[], xlabel="", ylabel="")
                if tiling.note:
                    notes.append(tiling.note)
                bad = int(np.count_nonzero(~np.isfinite(values)))
                if bad:
                    notes.append(non_finite_note(f"{name} of step {step.step}", bad))
            line[0].set_ylabel(label(name.replace(" of ", "\nof ")))
            line[0].set_axis_on()
            if image is not None:
                extend = extend_of(np.concatenate(drawn), norm)
                bar = figure.colorbar(image, ax=list(line), pad=0.01, fraction=0.05, extend=extend)
                set_bar_ticks(bar, 3)
                bar.ax.tick_params(labelsize=8)
        for axes, step in zip(grid[0], data.steps, strict=True):
            axes.set_title(f"step {step.step}")
        if data.asked > columns:
            notes.append(f"{columns} of {data.asked} steps are drawn, evenly taken")
        if len(first.variables) > _MOST_VARIABLES:
            notes.append(f"The first {_MOST_VARIABLES} of {len(first.variables)} variables")
        told = f"steps {data.steps[0].step} to {data.steps[-1].step}"
        set_title(figure, (first.model, told, first.layer), list(dict.fromkeys(notes)))
    return figure


def _height(data: WeightsData, place: int) -> float:
    """Return inches: as the image asks for in a column of 1.35 inches."""
    variable = data.variables[place]
    tiling = lay_out(variable.value, data.classes, variable.path)
    rows, columns = tiling.image.shape
    if not tiling.square:
        return 0.7 if rows == 1 else 1.7
    return float(np.clip(1.35 * rows / columns + 0.1, 0.6, 2.6))


def plot_strip(
    trace: TraceOrPath,
    layer: str | None = None,
    steps: Sequence[int] = (),
    *,
    figure: Drawable | None = None,
) -> Figure:
    """Draw a layer's weights, updates and gradients at several steps, in the same colours.

    Parameters
    ----------
    trace
        A trace, or its path.
    layer
        A layer's path or its last segments; the first layer with a kernel if not given.
    steps
        Recorded steps, in the order of the columns; of more than twelve, twelve evenly taken.
    figure
        Where to draw: a figure, or a part of one as its ``subfigures`` are; a new one if not given.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UnknownNameError, StepNotRecordedError
        If the trace has no such layer or step, or no step is given.

    Examples
    --------
    >>> plot_strip(open_trace("run.zarr"), "dense", steps=range(58, 63))  # doctest: +SKIP
    """
    with drawn_in(figure):
        return whole(draw_strip(strip_data(trace, layer, steps)))
