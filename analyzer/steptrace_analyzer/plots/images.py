"""Drawing a tiling into axes, with what is not finite set apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.colors import AsinhNorm, ListedColormap
from matplotlib.ticker import MaxNLocator

from steptrace_analyzer.plots.limits import finite
from steptrace_analyzer.plots.style import DIVERGING, NON_FINITE, SEQUENTIAL, counted, label

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Normalize
    from matplotlib.image import AxesImage

    from steptrace_analyzer.plots.tiles import Tiling

Extend = Literal["neither", "min", "max", "both"]


def draw_tiling(
    axes: Axes,
    tiling: Tiling,
    norm: Normalize,
    *,
    colours: str | None = None,
    interpolation: str = "nearest",
    most_ticks: int = 9,
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
        Name of the colour map; by default one for signed values, or for magnitudes.
    interpolation
        How pixels are drawn, as matplotlib calls it; ``"auto"`` smooths what is drawn smaller.
    most_ticks
        How many ticks an axis has at most.

    Returns
    -------
    AxesImage
        Its array is the tiling's image, gaps masked.
    """
    has_gaps = bool(tiling.gap.any())
    if colours is None:
        colours = DIVERGING if tiling.signed else SEQUENTIAL
    image = axes.imshow(
        np.ma.masked_array(tiling.image, mask=tiling.gap),
        cmap=colours,
        norm=norm,
        interpolation=interpolation,
        aspect="equal" if tiling.square else "auto",
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
    for axis, given in ((axes.xaxis, tiling.x_ticks), (axes.yaxis, tiling.y_ticks)):
        ticks = given[:: max(1, -(-len(given) // most_ticks))]
        axis.set_ticks([place for place, _ in ticks], [label(text) for _, text in ticks])
    if has_gaps:
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return image


def extend_of(values: npt.NDArray[Any], norm: Normalize) -> Extend:
    """Return which ends of a colour bar have values beyond them."""
    known = finite(values)
    low = bool(known.size and norm.vmin is not None and known.min() < norm.vmin)
    high = bool(known.size and norm.vmax is not None and known.max() > norm.vmax)
    if low and high:
        return "both"
    return "min" if low else "max" if high else "neither"


def add_colour_bar(
    axes: Axes, image: ScalarMappable, text: str, *, extend: Extend = "neither"
) -> None:
    """Add a colour bar as tall as the image; a pointed end says that values lie beyond it."""
    inside = axes.inset_axes((1.03, 0.0, 0.045, 1.0))
    bar = axes.figure.colorbar(image, cax=inside, extend=extend)
    set_bar_ticks(bar)
    bar.set_label(label(text))
    inside.spines[:].set_visible(False)


def set_bar_ticks(bar: Colorbar, most: int = 5) -> None:
    """Give a colour bar few ticks, which do not overprint each other around 0."""
    norm = bar.norm
    if isinstance(norm, AsinhNorm):
        usual, high = 2 * norm.linear_width, float(norm.vmax or 1.0)
        signed = (norm.vmin or 0.0) < 0
        ticks = [-high, -usual, 0.0, usual, high] if signed else [0.0, usual, high]
        if most < len(ticks):
            ticks = [-high, 0.0, high] if signed else [0.0, high]
        bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
        bar.ax.minorticks_off()
    else:
        bar.ax.yaxis.set_major_locator(MaxNLocator(most))


def non_finite_note(name: str, count: int) -> str:
    """Say how many values have the colour of those that are not finite."""
    return f"{counted(count, 'value')} of the {name} not finite (magenta)"
