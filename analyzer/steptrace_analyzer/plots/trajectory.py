"""The trajectory view: the way of a layer's parameters through training, and which moved most."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.ticker import MaxNLocator

from steptrace_analyzer.plots.limits import padded_range
from steptrace_analyzer.plots.lines import set_step_axis
from steptrace_analyzer.plots.style import (
    BLACK,
    CATEGORIES,
    GREY,
    ORANGE,
    SEQUENTIAL,
    drawn_in,
    label,
    new_figure,
    say,
    set_title,
    style,
    whole,
)
from steptrace_analyzer.plots.subject import layer_tensors, model_name
from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import (
    format_steps,
    get_tensor,
    recorded_steps,
    resolve_layer,
    tensor_paths,
)
from steptrace_schema.errors import UnknownNameError
from steptrace_schema.names import STEP

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from steptrace_analyzer.plots.style import Drawable
    from steptrace_analyzer.plots.subject import Located
    from steptrace_analyzer.trace.open import TraceOrPath

MOST_STEPS: Final = 200
"""Of more recorded steps, so many are read, evenly spread and those of findings."""

MOST_MOVED: Final = 6
"""So many parameters have a line."""

_BLOCK: Final = 4_000_000  # values that are in memory at once


@dataclasses.dataclass(frozen=True)
class TrajectoryData:
    """What the trajectory view draws.

    Parameters
    ----------
    model, layer
        What moves: one layer, or ``"all layers"``.
    steps
        Dims (step,): steps whose weights are finite.
    position
        Dims (step, component): the weights relative to their mean over the steps, in the directions
        in which they vary most; at most three. Distances are those of the parameters.
    explained
        Dims (component,): share of the variance over the steps.
    moved
        Dims (parameter, step): the values that differ most between the first and the last step.
    moved_names
        Where they are: variable and index.
    recorded
        How many steps the trace has.
    not_finite
        Steps that are left out because a weight is not finite.
    anomaly_steps
        Steps to be marked, ascending.
    """

    model: str
    layer: str
    steps: npt.NDArray[np.int64]
    position: npt.NDArray[np.float64]
    explained: npt.NDArray[np.float64]
    moved: npt.NDArray[np.float64]
    moved_names: tuple[str, ...]
    recorded: int
    not_finite: tuple[int, ...]
    anomaly_steps: tuple[int, ...]


def trajectory_data(
    trace: TraceOrPath, layer: str | None = None, anomalies: Iterable[Located] = ()
) -> TrajectoryData:
    """Read a layer's weights at all steps, part by part, and find in which directions they went.

    A principal component analysis of the steps by the matrix of their scalar products (Jolliffe,
    Principal Component Analysis, 2002, section 3.5), which is exact and as large as the number of
    steps squared, however many parameters there are.

    Parameters and errors are those of :func:`plot_trajectory`.
    """
    trace = opened(trace)
    found = sorted({anomaly.step for anomaly in anomalies})
    if layer is None:
        name, tensors = "all layers", [p for p in tensor_paths(trace, "weights") if "/" in p]
    else:
        name = resolve_layer(trace, "weights", layer)
        tensors = layer_tensors(trace, "weights", name)
    if not tensors:
        msg = f"{trace.name or 'the trace'} has no weights whose way could be drawn"
        raise UnknownNameError(msg)
    arrays = {path: get_tensor(trace, "weights", path) for path in tensors}
    every = sorted(set.intersection(*(set(recorded_steps(a)) for a in arrays.values())))
    steps = _choose(every, found)
    products = np.zeros((len(steps), len(steps)))
    best: list[tuple[float, str, npt.NDArray[np.float64]]] = []
    finite = np.ones(len(steps), dtype=bool)
    for path, block, offset, shape in _blocks(arrays, steps):
        whole = np.isfinite(block).all(axis=1)
        finite &= whole
        # Nearer to the result than to 0, so that no digit is lost; any step serves that is finite.
        near = block[whole][:1] if whole.any() else np.zeros((1, block.shape[1]))
        with np.errstate(invalid="ignore", over="ignore"):
            centred = block - near
            products += centred @ centred.T
            change = np.abs(block[-1] - block[0])
        change[~np.isfinite(change)] = -1.0
        for at in np.argsort(-change, kind="stable")[:MOST_MOVED]:
            index = ", ".join(str(i) for i in np.unravel_index(offset + int(at), shape))
            short = path.removeprefix(f"{name}/")
            best.append((float(change[at]), f"{short}[{index}]", block[:, at].copy()))
        best = sorted(best, key=lambda one: -one[0])[:MOST_MOVED]
    finite &= np.isfinite(products.diagonal())  # a sum of squares may overflow
    position, explained = _components(products[np.ix_(finite, finite)])
    kept = np.asarray(steps, dtype=np.int64)[finite]
    moved = [one for one in best if one[0] > 0]
    return TrajectoryData(
        model=model_name(trace),
        layer=name,
        steps=kept,
        position=position,
        explained=explained,
        moved=np.stack([one[2][finite] for one in moved]) if moved else np.empty((0, kept.size)),
        moved_names=tuple(one[1] for one in moved),
        recorded=len(every),
        not_finite=tuple(step for step, known in zip(steps, finite, strict=True) if not known),
        anomaly_steps=tuple(found),
    )


def draw_trajectory(data: TrajectoryData) -> Figure:
    """Draw the way in the plane and in space of the main components, and the largest movements."""
    with style():
        figure = new_figure(13.0, 7.4)
        grid = figure.add_gridspec(2, 2, width_ratios=(1.15, 1.0), height_ratios=(1.5, 1.0))
        plane = figure.add_subplot(grid[0, 0])
        lines = figure.add_subplot(grid[1, :])
        if data.steps.size < 2 or not data.explained.size:
            say(plane, "fewer than two steps with finite and different weights are recorded")
        else:
            points = _draw_plane(plane, data)
            space: Any = figure.add_subplot(grid[0, 1], projection="3d")
            _draw_space(space, data)
            bar = figure.colorbar(points, ax=plane, pad=0.02)
            bar.set_label("training step (optimizer updates)")
            bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        _draw_moved(lines, data)
        steps = (
            format_steps([int(step) for step in data.steps])
            if data.steps.size < 2
            else (f"{data.steps[0]}-{data.steps[-1]}")
        )
        set_title(figure, (data.model, f"steps {steps or 'none'}", data.layer), _notes(data))
    return figure


def plot_trajectory(
    trace: TraceOrPath,
    layer: str | None = None,
    anomalies: Iterable[Located] = (),
    *,
    figure: Drawable | None = None,
) -> Figure:
    """Draw the way of the parameters through training, in the directions in which they went.

    Parameters
    ----------
    trace
        A trace, or its path. Weights are read part by part, at up to 200 steps.
    layer
        A layer's path or its last segments; all layers together if not given.
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
        If the trace has no such layer, or no weights.

    Examples
    --------
    >>> plot_trajectory(open_trace("run.zarr"), "dense")  # doctest: +SKIP
    """
    with drawn_in(figure):
        return whole(draw_trajectory(trajectory_data(trace, layer, anomalies)))


def _choose(recorded: list[int], found: list[int]) -> list[int]:
    if len(recorded) <= MOST_STEPS:
        return recorded
    marked = [step for step in found if step in recorded][: MOST_STEPS // 4]
    places = np.linspace(0, len(recorded) - 1, MOST_STEPS - len(marked)).round().astype(int)
    return sorted({*marked, *(recorded[place] for place in places)})


def _blocks(
    arrays: dict[str, xr.DataArray], steps: list[int]
) -> Iterator[tuple[str, npt.NDArray[np.float64], int, tuple[int, ...]]]:
    """Yield parts of the weights: path, dims (step, parameter), the first's place, the shape."""
    for path, array in arrays.items() if steps else ():
        chosen = array.sel({STEP: steps})
        shape = tuple(int(n) for n in array.shape[1:])
        if not shape:
            values = np.asarray(chosen.to_numpy(), dtype=np.float64)
            yield path, values.reshape(-1, 1), 0, (1,)
            continue
        per_row = int(np.prod(shape[1:], dtype=np.int64))
        rows = max(1, _BLOCK // max(1, len(steps) * per_row))
        for first in range(0, shape[0], rows):
            part = chosen.isel({chosen.dims[1]: slice(first, first + rows)})
            values = np.asarray(part.to_numpy(), dtype=np.float64)
            if values.size:
                yield path, values.reshape(len(steps), -1), first * per_row, shape


def _components(
    products: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return positions and shares of variance, from the scalar products of the steps."""
    count = len(products)
    if count < 2:
        return np.empty((count, 0)), np.empty(0)
    centre = np.eye(count) - 1.0 / count
    variance, directions = np.linalg.eigh(centre @ products @ centre)
    variance, directions = variance[::-1], directions[:, ::-1]
    positive = np.maximum(variance, 0.0)
    total = positive.sum()
    if not total:
        return np.empty((count, 0)), np.empty(0)
    kept = min(3, count - 1)
    # The sign of a component means nothing; the first step is drawn at the left and below.
    signs = np.where(directions[0, :kept] > 0, -1.0, 1.0)
    return signs * directions[:, :kept] * np.sqrt(positive[:kept]), positive[:kept] / total


def _axis_name(data: TrajectoryData, component: int) -> str:
    share = data.explained[component] if component < data.explained.size else 0.0
    return f"component {component + 1} ({share:.0%} of the variance)"


def _coordinates(data: TrajectoryData) -> npt.NDArray[np.float64]:
    missing = 3 - data.position.shape[1]
    return np.pad(data.position, ((0, 0), (0, missing)))


def _draw_plane(axes: Axes, data: TrajectoryData) -> Any:
    x, y, _ = _coordinates(data).T
    axes.plot(x, y, color=GREY, linewidth=0.8, zorder=1)
    points = axes.scatter(x, y, c=data.steps, cmap=SEQUENTIAL, s=22, linewidths=0, zorder=2)
    ends: dict[str, Any] = {"linestyle": "none", "color": BLACK, "markersize": 8, "zorder": 3}
    axes.plot(x[:1], y[:1], "s", label=f"step {data.steps[0]}", mfc="none", **ends)
    axes.plot(x[-1:], y[-1:], "D", label=f"step {data.steps[-1]}", mfc="none", **ends)
    marked = np.isin(data.steps, data.anomaly_steps)
    if marked.any():
        ends["color"] = ORANGE
        axes.plot(x[marked], y[marked], "v", label="anomaly", **ends)
    axes.set(
        xlabel=_axis_name(data, 0),
        ylabel=_axis_name(data, 1),
        xlim=padded_range(x),
        ylim=padded_range(y, 0.08),
        title="the way of the parameters",
    )
    axes.legend(loc="best")
    return points


def _draw_space(space: Any, data: TrajectoryData) -> None:
    x, y, z = _coordinates(data).T
    space.plot(x, y, z, color=GREY, linewidth=0.8)
    space.scatter(x, y, z, c=data.steps, cmap=SEQUENTIAL, s=14, linewidths=0)
    marked = np.isin(data.steps, data.anomaly_steps)
    if marked.any():
        space.plot(x[marked], y[marked], z[marked], "v", color=ORANGE, markersize=8)
    space.set_xlabel("component 1", labelpad=6)
    space.set_ylabel("component 2", labelpad=8)
    share = data.explained[2] if data.explained.size > 2 else 0.0
    space.set_zlabel(f"component 3 ({share:.0%})", labelpad=10)
    for axis in (space.xaxis, space.yaxis, space.zaxis):
        axis.set_major_locator(MaxNLocator(4))
    space.set_box_aspect((1, 1, 1), zoom=0.8)


def _draw_moved(axes: Axes, data: TrajectoryData) -> None:
    if not data.moved_names:
        say(axes, "no parameter differs between the first and the last step")
        return
    for values, name, colour in zip(data.moved, data.moved_names, CATEGORIES, strict=False):
        axes.plot(data.steps, values, color=colour, label=label(name))
    for step in data.anomaly_steps:
        axes.axvline(step, color=ORANGE, linewidth=5, alpha=0.25, zorder=0)
    axes.set(ylabel="value", title="the parameters that moved most from first to last step")
    axes.set_xlabel("training step (optimizer updates)")
    axes.grid(axis="y")
    set_step_axis(axes, data.steps)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.0)


def _notes(data: TrajectoryData) -> list[str]:
    notes = ["Principal components of the weights over the steps"]
    used = data.steps.size + len(data.not_finite)
    if used < data.recorded:
        notes.append(f"{used} of {data.recorded:,} steps are read")
    if data.not_finite:
        notes.append(
            f"Steps {format_steps(list(data.not_finite))} have weights that are not finite and "
            "no place"
        )
    return notes
