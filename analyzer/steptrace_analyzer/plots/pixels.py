"""A tiling as the pixels of an image, for pictures that are made without a figure."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import matplotlib
import numpy as np

from steptrace_analyzer.plots.style import DIVERGING, NON_FINITE, SEQUENTIAL

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.colors import Colormap, Normalize

    from steptrace_analyzer.plots.tiles import Tiling


def pixels(tiling: Tiling, norm: Normalize, colours: str | None = None) -> npt.NDArray[np.uint8]:
    """Return a tiling's colours, as :func:`steptrace_analyzer.plots.images.draw_tiling` draws them.

    Parameters
    ----------
    tiling
        What to colour.
    norm
        Colour range of the finite values.
    colours
        Name of the colour map; by default one for signed values, or for magnitudes.

    Returns
    -------
    ndarray
        Dims (row, column, 4): red, green, blue, opacity. Gaps are transparent, and values that are
        not finite have their own colour.
    """
    chosen = _colour_map(colours or (DIVERGING if tiling.signed else SEQUENTIAL))
    with np.errstate(invalid="ignore"):
        coloured = np.asarray(chosen(norm(tiling.image), bytes=True), dtype=np.uint8).copy()
    other = matplotlib.colors.to_rgba(NON_FINITE)
    coloured[~np.isfinite(tiling.image)] = np.round(255 * np.asarray(other)).astype(np.uint8)
    coloured[tiling.gap] = 0
    return coloured


@cache
def _colour_map(name: str) -> Colormap:
    return matplotlib.colormaps[name]  # a copy, whose table is made when it is first used
