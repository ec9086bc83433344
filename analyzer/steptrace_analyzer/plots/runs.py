"""Several runs over one axis of steps: their losses, and the norms of gradients and weights."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.plots.limits import is_wide
from steptrace_analyzer.plots.lines import draw_smoothed, set_step_axis
from steptrace_analyzer.plots.loss import Curve
from steptrace_analyzer.plots.norms import layer_norms
from steptrace_analyzer.plots.style import (
    CATEGORIES,
    GREY,
    LIGHT_GREY,
    counted,
    drawn_in,
    label,
    new_figure,
    set_title,
    style,
    whole,
)
from steptrace_analyzer.trace.described import statistics_table
from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import get_tensor, has_tensor, recorded_steps
from steptrace_schema.errors import UnknownNameError
from steptrace_schema.names import LOSS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from steptrace_analyzer.plots.style import Drawable
    from steptrace_analyzer.trace.open import TraceOrPath
    from steptrace_schema.names import Kind

_COLOURS: Final = CATEGORIES[:6]
_DASHES: Final = ("-", "--", ":", "-.")
_MOST_RIMS: Final = 3
_NORMS: Final[tuple[tuple[Kind, str], ...]] = (
    ("gradients", "gradient norm\n(L2, d loss / d weight)"),
    ("weights", "norm of the weights\n(L2)"),
)


@dataclasses.dataclass(frozen=True)
class RunsData:
    """What the view of several runs draws.

    Parameters
    ----------
    runs
        Their names.
    panels
        Label of the axis, and by name the curve of every run that has one.
    parted
        Steps at which runs part.
    """

    runs: tuple[str, ...]
    panels: tuple[tuple[str, dict[str, Curve]], ...]
    parted: tuple[int, ...]


def runs_data(
    runs: Sequence[TraceOrPath], names: Sequence[str] | None = None, parted: Sequence[int] = ()
) -> RunsData:
    """Read loss and norms of several runs.

    Parameters and errors are those of :func:`plot_runs`.
    """
    trees = [opened(run) for run in runs]
    named = _distinct(names or [str(tree.name or "run") for tree in trees])
    pairs = list(zip(named, trees, strict=True))
    panels = [("loss", {n: _loss(tree) for n, tree in pairs if has_tensor(tree, "scalars", LOSS)})]
    for kind, text in _NORMS:
        described = [(n, tree) for n, tree in pairs if statistics_table(tree, kind) is not None]
        panels.append((text, {n: _norm(tree, kind) for n, tree in described}))
    shown = tuple((text, curves) for text, curves in panels if curves)
    if not shown:
        msg = "none of the runs has a loss, or statistics of gradients or weights"
        raise UnknownNameError(msg)
    return RunsData(tuple(named), shown, tuple(sorted(set(parted))))


def _distinct(names: Sequence[str]) -> list[str]:
    """Give names that several runs have, as the last parts of paths may be, a number."""
    return [
        f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def _loss(tree: xr.DataTree) -> Curve:
    loss = get_tensor(tree, "scalars", LOSS)
    steps = np.asarray(recorded_steps(loss), dtype=np.int64)
    return Curve(steps, np.asarray(loss.to_numpy(), dtype=np.float64))


def _norm(tree: xr.DataTree, kind: Kind) -> Curve:
    norms = layer_norms(tree, kind)
    return Curve(norms.steps, norms.total)


def draw_runs(data: RunsData) -> Figure:
    """Draw one panel below the other, and in each a line for every run."""
    most = len(_COLOURS) * len(_DASHES)
    looks = {
        name: (_COLOURS[place % len(_COLOURS)], _DASHES[place // len(_COLOURS)])
        if place < most
        else (LIGHT_GREY, "-")
        for place, name in enumerate(data.runs)
    }
    with style():
        figure = new_figure(11.0, 1.6 + 2.6 * len(data.panels))
        panels = list(figure.subplots(len(data.panels), 1, sharex=True, squeeze=False)[:, 0])
        for axes, (text, curves) in zip(panels, data.panels, strict=True):
            _draw_curves(axes, curves, looks)
            axes.set_ylabel(text)
            axes.grid(axis="y")
            for step in data.parted:
                axes.axvline(step, color=GREY, linewidth=1.0, linestyle=":", zorder=0)
        handles, labels = panels[0].get_legend_handles_labels()
        shown = slice(-1, -most - 1, -1)  # as they were given
        figure.legend(handles[shown], labels[shown], loc="outside right upper")
        steps = np.concatenate([c.steps for _, curves in data.panels for c in curves.values()])
        set_step_axis(panels[-1], steps)
        panels[-1].set_xlabel("training step (optimizer updates)")
        notes = []
        if data.parted:
            parted = ", ".join(map(str, data.parted[:8]))
            notes.append(f"Dotted: where runs part (step {parted})")
        if len(data.runs) > most:
            notes.append(f"Grey: {counted(len(data.runs) - most, 'more run')}")
        set_title(figure, (counted(len(data.runs), "run"), "loss and norms"), notes)
    return figure


def _draw_curves(axes: Axes, curves: dict[str, Curve], looks: dict[str, tuple[str, str]]) -> None:
    # A run that is equal to earlier ones is drawn below them and wider, so that all are seen.
    drawn = list(curves.items())
    for place, (run, curve) in reversed(list(enumerate(drawn))):
        colour, dashes = looks[run]
        above = sum(_is_equal(curve, other) for _, other in drawn[:place])
        draw_smoothed(
            axes,
            curve.steps,
            curve.values,
            color=colour,
            linestyle=dashes,
            linewidth=1.4 + 2.4 * min(above, _MOST_RIMS),
            label=label(run),
        )
    if all(is_wide(curve.values) for curve in curves.values()):
        axes.set_yscale("log")


def _is_equal(one: Curve, other: Curve) -> bool:
    return np.array_equal(one.steps, other.steps) and np.array_equal(
        one.values, other.values, equal_nan=True
    )


def plot_runs(
    runs: Sequence[TraceOrPath],
    names: Sequence[str] | None = None,
    parted: Sequence[int] = (),
    *,
    figure: Drawable | None = None,
) -> Figure:
    """Draw the losses of several runs in one axes, and below it the norms of gradients and weights.

    Parameters
    ----------
    runs
        Traces, or their paths.
    names
        What they are called; by default as their paths are.
    parted
        Steps to mark, as those of ``compare_runs(...).partings``.
    figure
        Where to draw: a figure, or a part of one as its ``subfigures`` are; a new one if not given.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UnknownNameError
        If no run has a loss, or statistics of gradients or weights.

    Examples
    --------
    >>> plot_runs(["a.zarr", "b.zarr"])  # doctest: +SKIP
    """
    with drawn_in(figure):
        return whole(draw_runs(runs_data(runs, names, parted)))
