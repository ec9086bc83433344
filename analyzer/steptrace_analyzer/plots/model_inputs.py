"""What went into the model, as the maps view draws it: each input above the gradient of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from steptrace_analyzer.plots.images import add_colour_bar, draw_tiling, non_finite_note
from steptrace_analyzer.plots.limits import finite, padded_range, symmetric_norm
from steptrace_analyzer.plots.style import BLUE, GREY, SEQUENTIAL, label, say
from steptrace_analyzer.plots.subject import has_step, read_step
from steptrace_analyzer.plots.tiles import Tiling
from steptrace_analyzer.trace.batch import (
    input_gradient_of,
    input_of_gradient,
    is_input,
    is_input_gradient,
    is_target,
)
from steptrace_analyzer.trace.select import tensor_paths
from steptrace_schema.names import X, Y

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr
    from matplotlib.axes import Axes

MOST_INPUTS: Final = 4
"""Of a model with more inputs the first ones are drawn."""


@dataclasses.dataclass(frozen=True)
class ModelInput:
    """One of a model's inputs, of one sample.

    Parameters
    ----------
    name
        ``"x"``, or ``"x_<name>"`` of several.
    values
        In the shape the model gets; None where not recorded.
    gradient
        d loss / d input, same shape; None where not recorded.
    """

    name: str
    values: npt.NDArray[np.float64] | None
    gradient: npt.NDArray[np.float64] | None


def read_inputs(trace: xr.DataTree, step: int, sample: int) -> tuple[ModelInput, ...]:
    """Read all inputs of a sample that are recorded at a step, with their gradients."""
    paths = tensor_paths(trace, "inputs")
    inputs = [path for path in paths if is_input(path)]
    inputs += [input_of_gradient(path) for path in paths if is_input_gradient(path)]
    found = (
        ModelInput(
            name,
            _row(trace, name, step, sample),
            _row(trace, input_gradient_of(name), step, sample),
        )
        for name in dict.fromkeys(inputs)
    )
    return tuple(each for each in found if each.values is not None or each.gradient is not None)


def read_target(trace: xr.DataTree, step: int, sample: int) -> str:
    """Return what a sample should give, as text; empty where that is no single number or class."""
    texts = []
    for path in tensor_paths(trace, "inputs"):
        if is_target(path) and (row := _row(trace, path, step, sample)) is not None:
            name = "target" if path == Y else f"target {path}"
            texts.append(_target_text(row, name))
    return ", ".join(filter(None, texts))


def _row(trace: xr.DataTree, path: str, step: int, sample: int) -> npt.NDArray[np.float64] | None:
    if not has_step(trace, "inputs", path, step):
        return None
    rows = read_step(trace, "inputs", path, step)
    return rows[sample] if sample < len(rows) else None


def saliency(gradient: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the magnitude of an input's gradient, the largest over the channels of a pixel.

    Parameters
    ----------
    gradient
        d loss / d x of one sample: dims (height, width, channel), or any other, which keep all.
    """
    magnitude = np.abs(gradient)
    return np.asarray(magnitude.max(axis=-1)) if gradient.ndim > 2 else magnitude


def draw_input(axes: Axes, given: ModelInput, title: str, step: int, notes: list[str]) -> None:
    """Draw an input as a picture, or as its numbers.

    Parameters
    ----------
    axes
        Where.
    given
        The input.
    title
        Of the axes.
    step
        Of the batch, for what is said where nothing is recorded.
    notes
        What the figure has to say besides; added to.
    """
    axes.set_title(label(title))
    if given.values is None:
        say(axes, f"{_noun(given)} is not recorded at step {step}")
        return
    if given.values.ndim < 2:
        numbers = given.values.reshape(-1)
        whole = numbers.size and np.isfinite(numbers).all() and not (numbers % 1).any()
        if whole and numbers.min(initial=0) >= 0 and numbers.max(initial=0) > 1:
            draw_units(axes, numbers, "position", f"{given.name} (whole numbers, such as tokens)")
        else:
            draw_units(axes, numbers, "feature", given.name)
        return
    picture = _picture(given.values)
    known = finite(picture)
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    inside = low >= 0 and high <= 1
    if not inside:
        name = "The input" if given.name == X else given.name
        notes.append(f"{name} is drawn from {low:.3g} (black) to {high:.3g} (white)")
        picture = (picture - low) / ((high - low) or 1.0)
    shown = np.nan_to_num(picture, nan=0.0, posinf=1.0, neginf=0.0)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="auto")
    across, down = _words(given.values)
    axes.set(xlabel=across, ylabel=down)
    if known.size < picture.size:
        notes.append(f"{picture.size - known.size} values of {_noun(given)} are not finite (black)")


def draw_saliency(axes: Axes, given: ModelInput, step: int, notes: list[str]) -> None:
    """Draw the gradient of the loss with respect to an input; like :func:`draw_input`."""
    axes.set_title(label(f"gradient of {_noun(given)}"))
    if given.gradient is None:
        say(axes, f"the gradient of {_noun(given)} is not recorded at step {step}")
        return
    if given.gradient.ndim < 2:
        draw_units(axes, given.gradient.reshape(-1), "feature", f"d loss / d {given.name}")
        return
    values = saliency(given.gradient)
    values = values if values.ndim == 2 else values.max(axis=0)
    gap = np.zeros(values.shape, dtype=bool)
    tiling = Tiling(values, gap, *_words(given.gradient), (), (), square=given.gradient.ndim > 2)
    image = draw_tiling(
        axes, tiling, positive_norm(values), colours=SEQUENTIAL, interpolation="auto"
    )
    add_colour_bar(axes, image, f"|d loss / d {given.name}|")
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        notes.append(non_finite_note(f"gradient of {_noun(given)}", bad))


def _words(values: npt.NDArray[np.float64]) -> tuple[str, str]:
    """Return what the columns and the rows of an input are; of two dimensions that is not known."""
    return ("width (pixel)", "height (pixel)") if values.ndim > 2 else ("column", "row")


def draw_units(axes: Axes, values: npt.NDArray[np.float64], unit: str, name: str) -> None:
    """Draw numbers that are no picture as stems over their index."""
    index = np.arange(values.size)
    known = np.isfinite(values)
    axes.vlines(index[known], 0, values[known], color=BLUE, linewidth=1.0, alpha=0.7)
    axes.plot(index[known], values[known], "o", color=BLUE, markersize=2.5)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set(
        xlabel=unit,
        ylabel=label(name),
        xlim=(-0.5 - 0.01 * values.size, values.size * 1.01 - 0.5),
        ylim=padded_range(np.append(values, 0.0), 0.08),
    )
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def positive_norm(values: npt.NDArray[np.float64]) -> Normalize:
    """Return colours from zero to the largest magnitude."""
    limit = symmetric_norm(values).vmax
    return Normalize(0.0, limit)


def _picture(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return grey (row, column) or RGB (row, column, 3); other channels are averaged."""
    if x.ndim > 3:  # a volume: its middle slice
        x = x[x.shape[0] // 2]
    if x.ndim == 2 or x.shape[-1] == 3:
        return x
    return np.asarray(x.mean(axis=-1))


def _noun(given: ModelInput) -> str:
    return "the input" if given.name == X else given.name


def _target_text(target: npt.NDArray[np.float64], name: str) -> str:
    flat = target.reshape(-1)
    if flat.size == 1:
        return f"{name} {flat[0]:g}"
    is_class = flat.size and np.isin(flat, (0.0, 1.0)).all() and flat.sum() == 1
    return f"{name} {int(flat.argmax())}" if is_class else ""
