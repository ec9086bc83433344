"""Colours of a layer's units: few enough that they can be told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D

from steptrace_analyzer.plots.style import CATEGORIES, SILVER

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

_MOST_HUES: Final = 6


def moving_units(unit: npt.NDArray[np.intp], update: npt.NDArray[np.float64]) -> list[int]:
    """Return the units with colours of their own: all of a few, else those that move most.

    Parameters
    ----------
    unit, update
        Dims (point,): the unit of a parameter, and what the step adds to it.
    """
    count = int(unit.max(initial=-1)) + 1
    moved = np.zeros(max(count, 1))
    np.add.at(moved, unit, np.abs(update))
    if count <= _MOST_HUES:
        return list(range(count))
    return sorted(np.argsort(-moved, kind="stable")[:_MOST_HUES].tolist())


def unit_colours(
    unit: npt.NDArray[np.intp], chosen: Sequence[int]
) -> tuple[npt.NDArray[np.float64], list[Line2D]]:
    """Colour the chosen units; the rest is grey.

    Returns
    -------
    colours
        RGBA, dims (point, 4).
    handles
        Of the legend.
    """
    count = int(unit.max(initial=-1)) + 1
    chosen = [one for one in chosen if one < count]
    palette = np.tile(to_rgba(SILVER), (max(count, 1), 1))
    for hue, one in zip(CATEGORIES, chosen, strict=False):
        palette[one] = to_rgba(hue)
    handles = [
        Line2D([], [], linestyle="none", marker="o", color=hue, label=str(one))
        for hue, one in zip(CATEGORIES, chosen, strict=False)
    ]
    if count > len(chosen):
        rest = f"the other {count - len(chosen)}"
        handles.append(Line2D([], [], linestyle="none", marker="o", color=SILVER, label=rest))
    return palette[unit], handles
