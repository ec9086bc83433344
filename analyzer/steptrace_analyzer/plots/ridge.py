"""The ridge view: how the values of a layer's tensor are distributed, one ridge per step."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import matplotlib
import numpy as np

from steptrace_analyzer.plots.limits import finite
from steptrace_analyzer.plots.style import (
    NON_FINITE,
    QUIET,
    SEQUENTIAL,
    drawn_in,
    label,
    new_figure,
    set_title,
    style,
    whole,
)
from steptrace_analyzer.plots.subject import choose_layer, layer_tensors, model_name, read_step
from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import get_tensor, recorded_steps, resolve_step

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from steptrace_analyzer.plots.style import Drawable
    from steptrace_analyzer.trace.open import TraceOrPath
    from steptrace_schema.names import Kind

_LARGEST: Final = 1e37
"""Larger numbers are counted as this one, whose float32 and multiples are finite."""
MOST_RIDGES: Final = 16
"""Of more steps, so many are drawn, evenly spread."""

_MOST_TENSORS: Final = 3
_BINS: Final = 60
_TALL: Final = 2.2  # how many rows the highest ridge takes


@dataclasses.dataclass(frozen=True)
class Ridges:
    """The distributions of one tensor.

    Parameters
    ----------
    path
        Of the tensor.
    steps
        Dims (step,).
    edges
        Dims (bin + 1,); the same for all steps.
    density
        Dims (step, bin): share of a step's finite values.
    non_finite
        Dims (step,): how many values are not finite.
    beyond
        How many values of all steps are outside of the edges.
    """

    path: str
    steps: npt.NDArray[np.int64]
    edges: npt.NDArray[np.float64]
    density: npt.NDArray[np.float64]
    non_finite: npt.NDArray[np.int64]
    beyond: int


@dataclasses.dataclass(frozen=True)
class RidgeData:
    """What the ridge view draws."""

    model: str
    kind: Kind
    layer: str
    tensors: tuple[Ridges, ...]


def ridge_data(
    trace: TraceOrPath,
    layer: str | None = None,
    steps: Sequence[int] | None = None,
    *,
    kind: Kind = "weights",
) -> RidgeData:
    """Count a layer's values by size, step by step.

    Parameters and errors are those of :func:`plot_ridge`.
    """
    trace = opened(trace)
    path = choose_layer(trace, kind, layer, lambda _: True)
    tensors = layer_tensors(trace, kind, path)[:_MOST_TENSORS]
    return RidgeData(
        model_name(trace),
        kind,
        path,
        tuple(_ridges(trace, kind, tensor, steps) for tensor in tensors),
    )


def draw_ridge(data: RidgeData) -> Figure:
    """Draw one column per tensor, and in it one ridge per step, the first step at the top."""
    columns = max(len(data.tensors), 1)
    rows = max((tensor.steps.size for tensor in data.tensors), default=1)
    with style():
        figure = new_figure(4.6 * columns + 1.0, float(np.clip(2.4 + 0.36 * rows, 4.0, 9.0)))
        grid = figure.subplots(1, columns, squeeze=False)[0]
        for axes, tensor in zip(grid, data.tensors, strict=False):
            _draw(axes, tensor)
            axes.set_title(label(f"{data.kind}: {tensor.path.removeprefix(f'{data.layer}/')}"))
            axes.set_xlabel("value")
        grid[0].set_ylabel("training step (optimizer updates)")
        every = sorted({int(step) for tensor in data.tensors for step in tensor.steps})
        told = f"steps {every[0]} to {every[-1]}" if every else "no step"
        set_title(figure, (data.model, told, data.layer), _notes(data))
    return figure


def plot_ridge(
    trace: TraceOrPath,
    layer: str | None = None,
    steps: Sequence[int] | None = None,
    *,
    kind: Kind = "weights",
    figure: Drawable | None = None,
) -> Figure:
    """Draw how a layer's values are distributed, one ridge per step.

    Parameters
    ----------
    trace
        A trace, or its path.
    layer
        A layer's path or its last segments; the first one of the kind if not given.
    steps
        Recorded steps, negative ones from the end; up to 16 from first to last if not given.
    kind
        ``"weights"``, ``"updates"``, ``"gradients"``, ``"activations"`` or another with layers.
    figure
        Where to draw: a figure, or a part of one as its ``subfigures`` are; a new one if not given.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UnknownNameError, StepNotRecordedError
        If the trace has no such kind, layer or step.

    Examples
    --------
    >>> plot_ridge(open_trace("run.zarr"), "dense", kind="gradients")  # doctest: +SKIP
    """
    with drawn_in(figure):
        return whole(draw_ridge(ridge_data(trace, layer, steps, kind=kind)))


def _ridges(trace: Any, kind: Kind, tensor: str, steps: Sequence[int] | None) -> Ridges:
    array = get_tensor(trace, kind, tensor)
    recorded = recorded_steps(array)
    chosen = recorded if steps is None else sorted({resolve_step(array, step) for step in steps})
    if len(chosen) > MOST_RIDGES:
        places = np.linspace(0, len(chosen) - 1, MOST_RIDGES).round().astype(int)
        chosen = [chosen[place] for place in places]
    lows, highs, values = [], [], []
    for step in chosen:  # the finite values are kept as float32: 16 steps at the most
        flat = read_step(trace, kind, tensor, step).reshape(-1)
        known = np.clip(finite(flat), -_LARGEST, _LARGEST)
        values.append((known.astype(np.float32), flat.size - known.size))
        if known.size:
            low, high = np.percentile(known, [0.1, 99.9])
            lows.append(low)
            highs.append(high)
    low, high = (min(lows), max(highs)) if lows else (-1.0, 1.0)
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    edges = np.linspace(low, high, _BINS + 1)
    counts = [np.histogram(known, edges)[0] for known, _ in values]
    density = [c / max(k.size, 1) for c, (k, _) in zip(counts, values, strict=True)]
    return Ridges(
        path=tensor,
        steps=np.asarray(chosen, dtype=np.int64),
        edges=edges,
        density=np.stack(density) if density else np.empty((0, _BINS)),
        non_finite=np.asarray([bad for _, bad in values], dtype=np.int64),
        beyond=int(sum(k.size - c.sum() for c, (k, _) in zip(counts, values, strict=True))),
    )


def _draw(axes: Axes, tensor: Ridges) -> None:
    count = tensor.steps.size
    middle = (tensor.edges[1:] + tensor.edges[:-1]) / 2
    largest = tensor.density.max(initial=0.0) or 1.0
    colours = matplotlib.colormaps[SEQUENTIAL](np.linspace(0.0, 0.85, max(count, 1)))
    for row in range(count):
        height = row - _TALL * tensor.density[row] / largest
        axes.fill_between(middle, row, height, color=colours[row], alpha=0.75, zorder=row)
        axes.plot(middle, height, color="white", linewidth=0.8, zorder=row)
        if tensor.non_finite[row]:
            axes.plot(
                [1.0],
                [row],
                "X",
                color=NON_FINITE,
                transform=axes.get_yaxis_transform(),
                clip_on=False,
                zorder=count + 1,
            )
    stride = max(1, -(-count // 16))
    axes.set_yticks(range(0, count, stride), [str(step) for step in tensor.steps[::stride]])
    axes.set_ylim(max(count, 1) - 0.5, -_TALL - 0.2)
    axes.set_xlim(float(tensor.edges[0]), float(tensor.edges[-1]))
    axes.axvline(0, color=QUIET, linewidth=0.6, linestyle=":", zorder=-1)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _notes(data: RidgeData) -> list[str]:
    notes = ["Heights: share of a step's values, the same scale for all steps of a tensor"]
    beyond = sum(tensor.beyond for tensor in data.tensors)
    if beyond:
        notes.append(f"{beyond:,} values are beyond the axes")
    bad = sum(int(tensor.non_finite.sum()) for tensor in data.tensors)
    if bad:
        notes.append(f"Magenta: steps with values that are not finite ({bad:,})")
    return notes
