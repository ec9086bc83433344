"""How far two runs are apart, layer by layer, over the steps; and where in one tensor."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_analyzer.plots.limits import symmetric_norm
from steptrace_analyzer.plots.lines import draw_line, set_step_axis
from steptrace_analyzer.plots.reduce import reduce_matrix
from steptrace_analyzer.plots.style import (
    DIVERGING,
    NON_FINITE,
    VERMILION,
    category_colours,
    label,
    new_figure,
    say,
    set_title,
    style,
)
from steptrace_analyzer.trace.select import layer_of

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from steptrace_analyzer.differences.divergence_result import Place
    from steptrace_analyzer.differences.result import DiffResult
    from steptrace_schema.names import Kind

_KINDS: Final[tuple[Kind, ...]] = ("weights", "activations", "gradients", "scalars")
_MOST_LINES: Final = 8
_MOST_CELLS: Final = 192


@dataclasses.dataclass(frozen=True)
class LayerDistance:
    """How far a layer is from itself in another run.

    Attributes
    ----------
    layer
        Its path.
    steps
        The steps at which it is known, ascending.
    distance
        Of the layer's tensors of a kind, the largest root mean square of the difference in parts of
        the root mean square of the first; infinite where values are finite on one side alone.
    """

    layer: str
    steps: npt.NDArray[np.int64]
    distance: npt.NDArray[np.float64]


def layer_distances(result: DiffResult, kind: Kind) -> list[LayerDistance]:
    """Return the distance of every layer by step, in the order of the model.

    Parameters
    ----------
    result
        Of :func:`steptrace_analyzer.diff`, with all tensors.
    kind
        Which of its tensors.
    """
    found: dict[str, dict[int, float]] = {}
    for each in result.by_step:
        if each.kind != kind:
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(each.distance > 0, each.distance / each.size, 0.0)
        own = found.setdefault(layer_of(each.path), {})
        for step, value in zip(each.steps.tolist(), relative.tolist(), strict=True):
            own[step] = max(own.get(step, 0.0), value)
    return [
        LayerDistance(
            layer, np.array(sorted(values)), np.array([values[step] for step in sorted(values)])
        )
        for layer, values in found.items()
    ]


def plot_divergence(result: DiffResult) -> Figure:
    """Draw how far two runs are apart: each layer's weights by step, on a logarithmic axis.

    Without weights, activations are drawn, else gradients, else numbers such as the loss.

    Parameters
    ----------
    result
        Of :func:`steptrace_analyzer.diff`, with all tensors.

    Examples
    --------
    >>> plot_divergence(diff("a.zarr", "b.zarr"))  # doctest: +SKIP
    """
    kinds = {each.kind for each in result.by_step}
    kind: Kind = next((kind for kind in _KINDS if kind in kinds), "weights")
    lines = [line for line in layer_distances(result, kind) if (line.distance > 0).any()]
    with style():
        figure = new_figure(8.6, 4.0)
        axes = figure.add_subplot()
        notes = [f"Equal steps have no point: {kind} of the layer, largest of its tensors"]
        place = result.divergence.place if result.divergence is not None else None
        parted = place.step if place is not None else None
        if parted is not None:
            notes.append(f"Dashed: where the runs part (step {parted})")
        shown = sorted(lines, key=lambda line: -np.nanmax(line.distance))[:_MOST_LINES]
        if len(shown) < len(lines):
            notes.append(f"{len(lines) - len(shown)} layers that are less far apart are not drawn")
        lost = [line.layer for line in lines if np.isinf(line.distance).any()]
        if lost:
            more = "" if len(lost) == 1 else f" and {len(lost) - 1} more"
            notes.append(f"Values are finite in one run alone in {lost[0]}{more}")
        set_title(figure, [f"{result.a} and {result.b}", "distance by layer"], notes)
        if not lines:
            say(axes, f"no {kind} differ at any step that both have")
            return figure
        colours = category_colours(len(shown))
        names = [line.layer for line in lines if line in shown]
        for line in shown:
            known = (line.distance > 0) & np.isfinite(line.distance)
            values = np.where(known, line.distance, np.nan)
            colour = colours[names.index(line.layer)]
            draw_line(axes, line.steps, values, color=colour, label=label(line.layer))
        axes.set_yscale("log")
        steps = np.unique(np.concatenate([line.steps for line in lines]))
        set_step_axis(axes, steps)
        if parted is not None:
            axes.axvline(parted, color=VERMILION, linewidth=1, linestyle="--", zorder=0)
        axes.set_xlabel("step")
        axes.set_ylabel("rms of difference / rms")
        axes.grid(axis="y")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def difference_matrix(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the difference of two tensors of one shape as a matrix, its columns the units.

    Infinite where an element is finite on one side alone, or the two are different infinities.

    Examples
    --------
    >>> difference_matrix(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    array([[0. , 0.5]])
    """
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    same = (wide_a == wide_b) | (np.isnan(wide_a) & np.isnan(wide_b))
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(same, 0.0, wide_b - wide_a)
    apart = np.where(np.isnan(apart), np.inf, apart)
    return apart.reshape(-1, a.shape[-1]) if a.ndim else apart.reshape(1, 1)


def plot_difference_map(a: npt.NDArray[Any], b: npt.NDArray[Any], place: Place) -> Figure:
    """Draw where in a tensor two runs differ: the second minus the first.

    Parameters
    ----------
    a, b
        The tensor in both at one step.
    place
        Which tensor, and where the difference is largest.

    Examples
    --------
    >>> plot_difference_map(a, b, found.place)  # doctest: +SKIP
    """
    matrix = difference_matrix(a, b)
    lost = int(np.isinf(matrix).sum())
    reduced, block = reduce_matrix(matrix, _MOST_CELLS, _MOST_CELLS)
    with style():
        figure = new_figure(8.6, 4.4)
        axes = figure.add_subplot()
        notes = ["Rows are all dimensions but the last, columns its units"]
        if block != (1, 1):
            notes.append(f"A cell is the largest of {block[0]} x {block[1]} elements")
        if lost:
            notes.append(f"{lost} elements are finite in one run alone, or infinite otherwise")
        where = "" if place.step is None else f"step {place.step}"
        set_title(figure, [place.name, where] if where else [place.name], notes)
        shown = np.ma.masked_invalid(reduced)
        colours: Any = _bad_is_marked()
        picture = axes.imshow(
            shown, cmap=colours, norm=symmetric_norm(reduced), aspect="auto", origin="upper"
        )
        axes.set_xlabel(f"unit{'' if block[1] == 1 else f' / {block[1]}'}")
        axes.set_ylabel(f"row{'' if block[0] == 1 else f' / {block[0]}'}")
        figure.colorbar(picture, ax=axes, label="second minus first")
    return figure


def _bad_is_marked() -> Any:
    import matplotlib

    return matplotlib.colormaps[DIVERGING].with_extremes(bad=NON_FINITE)
