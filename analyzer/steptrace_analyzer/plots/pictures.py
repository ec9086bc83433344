"""Arrays as images whose every pixel knows its value and its place in the array."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import matplotlib
import numpy as np
from matplotlib.colors import Normalize

from steptrace_analyzer.plots.layer_arrays import Subject, read
from steptrace_analyzer.plots.limits import finite, magnitude_limit, shared_norm
from steptrace_analyzer.plots.maps import channel_tiles
from steptrace_analyzer.plots.pixels import pixels
from steptrace_analyzer.plots.style import DIVERGING, SEQUENTIAL
from steptrace_analyzer.plots.tiles import Tiling, lay_out
from steptrace_analyzer.trace.described import described_tensors, statistics_table
from steptrace_analyzer.trace.select import get_tensor
from steptrace_schema.names import STATISTIC, TENSOR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.trace.rows import Rows

    Values = npt.NDArray[np.float64]

MOST_MAPS: Final = 64
"""Of a layer with more channels the first ones are shown, or the chosen one."""

_MOST_READ: Final = 5  # steps that are read for a range of colours
_FEW: Final = 200  # values, among which the largest is no outlier
_GREY: Final = "gray"


@dataclasses.dataclass(frozen=True)
class Frame:
    """What stays the same over the steps of a picture.

    Parameters
    ----------
    title
        What is shown, with its shape.
    shape
        Rows and columns of the image.
    places
        By the name of a dimension, the index along it of each pixel: dims (row, column), the first
        row at the bottom, as the page draws it.
    tiling
        The layout; its image is that of the step that it was made of.
    norm, colours
        Range and name of the colours.
    note
        What the reader must know; may be empty.
    """

    title: str
    shape: tuple[int, int]
    places: dict[str, npt.NDArray[np.int32]]
    tiling: Tiling
    norm: Normalize
    colours: str
    note: str


@dataclasses.dataclass(frozen=True)
class Image:
    """One step of a picture; dims (row, column), the first row at the bottom.

    Parameters
    ----------
    rgba
        uint32, as a canvas has its pixels.
    values
        float32; NaN between tiles.
    """

    rgba: npt.NDArray[np.uint32]
    values: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Limits:
    """How large the values of a subject are.

    Parameters
    ----------
    magnitudes
        The usual largest magnitude of each step.
    lowest
        The lowest value of all; 0 where none is negative.
    """

    magnitudes: list[float]
    lowest: float


def lay(values: Values, subject: Subject, classes: Sequence[str]) -> Tiling:
    """Lay an array out as one image."""
    if subject.look == "variable":
        return lay_out(values, classes, subject.path)
    if values.ndim > 2:
        channels = np.arange(min(values.shape[-1], MOST_MAPS))
        if subject.look == "input" and _is_photo(values):
            values, channels = values.mean(axis=-1, keepdims=True), np.arange(1)
        tiling = channel_tiles(values, channels)
        if channels.size == 1:
            return dataclasses.replace(tiling, x_label="", y_label="", y_ticks=())
        return dataclasses.replace(tiling, x_label="channels", y_label="")
    tiling = lay_out(values)
    labels = ("unit", "time") if values.ndim == 2 else ("unit", "")
    if subject.kind == "inputs":
        labels = ("feature", labels[1])
    return dataclasses.replace(tiling, x_label=labels[0], y_label=labels[1])


def make_frame(
    values: Values,
    subject: Subject,
    dims: Sequence[str],
    classes: Sequence[str],
    limits: Limits,
) -> Frame:
    """Make the frame of a subject from the values of one step.

    Parameters
    ----------
    values
        As :func:`steptrace_analyzer.plots.layer_arrays.read` returned them.
    subject
        What they are.
    dims
        Names of their dimensions.
    classes
        Classes of the layer and of the layers around it, the innermost first.
    limits
        Of the steps that are to be comparable.
    """
    tiling = lay(values, subject, classes)
    # An activation that is never negative has a range from 0.
    signed = tiling.signed and (subject.look == "variable" or limits.lowest < 0)
    norm = shared_norm(limits.magnitudes or [magnitude_limit(values)], signed=signed)
    colours = DIVERGING if signed else SEQUENTIAL
    if subject.look == "input":
        known = finite(values)
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        inside = low >= 0 and high <= 1
        norm = Normalize(0.0, 1.0) if inside else Normalize(low, high if high > low else low + 1)
        colours = _GREY
    shape = " × ".join(str(size) for size in values.shape)
    note = tiling.note
    shown = min(values.shape[-1], MOST_MAPS) if values.ndim > 2 else 0
    if subject.look == "maps" and 0 < shown < values.shape[-1]:
        note = ". ".join(filter(None, [note, f"Channels 0 to {shown - 1}"]))
    return Frame(
        title=f"{subject.title} ({shape})" if shape else subject.title,
        shape=(tiling.image.shape[0], tiling.image.shape[1]),
        places=_places(values.shape, subject, dims, classes, tiling),
        tiling=tiling,
        norm=norm,
        colours=colours,
        note=note,
    )


def make_image(values: Values, frame: Frame, subject: Subject, classes: Sequence[str]) -> Image:
    """Make the image of one step."""
    tiling = lay(values, subject, classes)
    if tiling.image.shape != frame.shape:  # a variable that grew, such as a list of tokens
        return Image(np.zeros(frame.shape, np.uint32), np.full(frame.shape, np.nan, np.float32))
    coloured = pixels(tiling, frame.norm, frame.colours)
    if subject.look == "input" and (seen := photo(values, frame)) is not None:
        known = np.isfinite(tiling.image)
        coloured[known, :3] = seen[known]
    shown = np.where(tiling.gap, np.nan, tiling.image).astype(np.float32)
    flat = np.ascontiguousarray(coloured[::-1]).view(np.uint32)[..., 0]
    return Image(flat, np.ascontiguousarray(shown[::-1]))


def photo(values: Values, frame: Frame) -> npt.NDArray[np.uint8] | None:
    """Return an input of three channels as red, green and blue; None where it has others."""
    if not _is_photo(values):
        return None
    while values.ndim > 3:
        values = values[values.shape[0] // 2]
    with np.errstate(invalid="ignore"):
        share = np.clip(np.nan_to_num(np.asarray(frame.norm(values), dtype=np.float64)), 0.0, 1.0)
    return np.asarray((255 * share).round(), dtype=np.uint8)


def step_limits(
    trace: xr.DataTree,
    rows: Rows,
    subject: Subject,
    classes: Sequence[str],
    steps: Sequence[int],
) -> Limits:
    """Return the usual largest magnitude of a subject by step, for one range of colours.

    Where the trace has statistics of it, they are read instead of the array: of few values the
    extremes, of many the percentiles that 2 % of the values exceed. Else a few of `steps` are read.
    """
    table = statistics_table(trace, subject.kind)
    shape = get_tensor(trace, subject.kind, subject.path).shape[1:]
    is_norm = subject.look == "variable" and not lay_out(np.zeros(shape), classes).signed
    if table is not None and subject.path in described_tensors(table) and not is_norm:
        mine = table.sel({TENSOR: subject.path, STATISTIC: ["p01", "p99", "min", "max"]})
        ends = np.abs(np.asarray(mine.to_numpy(), dtype=np.float64))
        inner, outer = ends[:, :2].max(axis=1), ends[:, 2:].max(axis=1)
        small = int(np.prod(shape)) < _FEW
        limits = outer if small else np.where(inner > 0, inner, outer)
        lowest = finite(mine.to_numpy()[:, 2])
        return Limits(limits[np.isfinite(limits)].tolist(), float(lowest.min(initial=0.0)))
    places = np.linspace(0, len(steps) - 1, min(len(steps), _MOST_READ)).round().astype(int)
    return measured_limits(
        lambda step: read(rows, subject, step, 0, None),
        subject,
        classes,
        [steps[p] for p in places],
    )


def measured_limits(
    of: Callable[[int], Values | None],
    subject: Subject,
    classes: Sequence[str],
    steps: Sequence[int],
) -> Limits:
    """Return the largest usual magnitude at some steps, from the values that `of` returns."""
    found, lowest = [], 0.0
    for step in steps:
        values = of(step)
        if values is not None:
            tiling = lay(values, subject, classes)
            found.append(magnitude_limit(tiling.image[~tiling.gap]))
            lowest = min(lowest, float(finite(values).min(initial=0.0)))
    return Limits(found, lowest)


def gradient_css(colours: str) -> str:
    """Return colours from left to right as a CSS background; names are those of matplotlib."""
    stops = matplotlib.colormaps[colours](np.linspace(0.0, 1.0, 17))
    parts = ", ".join(matplotlib.colors.to_hex(stop) for stop in stops)
    return f"linear-gradient(to right, {parts})"


def _is_photo(values: Values) -> bool:
    return values.ndim > 2 and values.shape[-1] == 3


def _places(
    shape: tuple[int, ...],
    subject: Subject,
    dims: Sequence[str],
    classes: Sequence[str],
    tiling: Tiling,
) -> dict[str, npt.NDArray[np.int32]]:
    """Return where in the array each pixel is: the same layout, of indices instead of values."""
    names, counted = list(dims), shape
    if subject.look == "variable" and not tiling.signed:  # a pixel is the norm over the inputs
        names, counted = [*names[:-2], names[-1]], (*shape[:-2], 1, shape[-1])
    elif subject.look == "input" and len(shape) > 2 and shape[-1] == 3:
        names, counted = names[:-1], (*shape[:-1], 1)
    count = int(np.prod(counted, dtype=np.int64))
    numbers = np.arange(1, count + 1, dtype=np.float64).reshape(counted)
    laid = lay(numbers, subject, classes)
    if laid.image.shape != tiling.image.shape:
        return {}
    flat = np.where(laid.gap, 1, laid.image).astype(np.int64) - 1
    left_out = None if len(names) == len(counted) else _nameless(subject, counted)
    sizes = tuple(size for place, size in enumerate(counted) if place != left_out)
    axes = np.unravel_index(flat[::-1], sizes) if sizes else ()
    return {
        name: np.ascontiguousarray(axis, dtype=np.int32)
        for name, axis in zip(names, axes, strict=True)
    }


def _nameless(subject: Subject, counted: tuple[int, ...]) -> int:
    """Return the axis of extent 1 that has no name: of the inputs, or of a photo's colours."""
    last = len(counted) - 1
    return last - 1 if subject.look == "variable" else last
