"""Drawing a tiling into axes, with what is not finite set apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import ListedColormap

from steptrace_analyzer.plots.style import DIVERGING, NON_FINITE, counted, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.image import AxesImage

    from steptrace_analyzer.plots.tiles import Tiling

_MOST_STRETCHED = 6.0


def draw_tiling(
    axes: Axes,
    tiling: Tiling,
    norm: Normalize,
    *,
    colours: str = DIVERGING,
    interpolation: str = "nearest",
) -> AxesImage:
    """Draw a tiling; gaps stay empty and values that are not finite get their own colour.

    Parameters
    ----------
    axes
        Where to draw.
    tiling
        What to draw.
    norm
        Colour range of the finite values.
    colours
        Name of the colour map.
    interpolation
        How pixels are drawn, as matplotlib calls it; ``"auto"`` smooths what is drawn smaller.

    Returns
    -------
    AxesImage
        Its array is the tiling's image, gaps masked.
    """
    rows, columns = tiling.image.shape
    has_gaps = bool(tiling.gap.any())
    stretched = max(rows / columns, columns / rows) > _MOST_STRETCHED
    image = axes.imshow(
        np.ma.masked_array(tiling.image, mask=tiling.gap),
        cmap=colours,
        norm=norm,
        interpolation=interpolation,
        aspect="auto" if stretched and not has_gaps else "equal",
    )
    bad = ~np.isfinite(tiling.image) & ~tiling.gap
    if bad.any():
        axes.imshow(
            np.ma.masked_array(np.ones(bad.shape), mask=~bad),
            cmap=ListedColormap([NON_FINITE]),
            aspect=axes.get_aspect(),
        )
    axes.set_xlabel(tiling.x_label)
    axes.set_ylabel(tiling.y_label)
    axes.set_xticks([p for p, _ in tiling.x_ticks], [label(t) for _, t in tiling.x_ticks])
    axes.set_yticks([p for p, _ in tiling.y_ticks], [label(t) for _, t in tiling.y_ticks])
    if has_gaps:
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return image


def add_colour_bar(axes: Axes, image: ScalarMappable, text: str, *, clipped: bool = False) -> None:
    """Add a colour bar as tall as the image; pointed ends say that some values lie beyond."""
    inside = axes.inset_axes((1.03, 0.0, 0.045, 1.0))
    bar = axes.figure.colorbar(image, cax=inside, extend="both" if clipped else "neither")
    bar.set_label(label(text))
    inside.spines[:].set_visible(False)


def non_finite_note(name: str, count: int) -> str:
    """Say how many values have the colour of those that are not finite."""
    return f"{counted(count, 'value')} of the {name} not finite (magenta)"
