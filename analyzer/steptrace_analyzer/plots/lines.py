"""Drawing one value per step as a line that loses no extreme and no isolated point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.ticker import MaxNLocator

from steptrace_analyzer.plots.reduce import envelope

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

_BLOCKS: Final = 1000
_FEW: Final = 40
_BANDS: Final = 400  # parts of a band over many steps
_MOST_RAW: Final = 600  # steps that are drawn as they are


def draw_line(
    axes: Axes, steps: npt.NDArray[Any], values: npt.NDArray[Any], **appearance: Any
) -> None:
    """Draw `values` by step; a value between two that are not finite is drawn as a dot."""
    kept = envelope(values, _BLOCKS)
    shown = np.where(np.isfinite(values[kept]), values[kept], np.nan)
    axes.plot(steps[kept], shown, **appearance)
    alone = isolated(shown)
    dots = alone if steps.size > _FEW else np.isfinite(shown)
    rest = {k: v for k, v in appearance.items() if k in ("color", "alpha", "zorder")}
    axes.plot(steps[kept][dots], shown[dots], linestyle="none", marker="o", markersize=2.6, **rest)


def draw_smoothed(
    axes: Axes, steps: npt.NDArray[Any], values: npt.NDArray[Any], **appearance: Any
) -> int:
    """Draw `values` by step as :func:`draw_line` does; many steps as their mean in a faint band.

    The band holds every value of its steps, so that no extreme is lost.

    Returns
    -------
    int
        Over how many steps the mean is; 1 where the line is the values themselves.
    """
    window = smoothing(values.size)
    if window == 1:
        draw_line(axes, steps, values, **appearance)
        return 1
    starts = np.arange(0, values.size, max(1, values.size // _BANDS))
    low, high = (
        np.minimum.reduceat(np.where(np.isfinite(values), values, np.inf), starts),
        np.maximum.reduceat(np.where(np.isfinite(values), values, -np.inf), starts),
    )
    known = np.isfinite(low) & np.isfinite(high)
    axes.fill_between(
        steps[starts],
        np.where(known, low, np.nan),
        np.where(known, high, np.nan),
        color=appearance.get("color"),
        alpha=0.22,
        linewidth=0,
        step="post",
        zorder=1,
    )
    draw_line(axes, steps, moving_mean(values, window), **appearance)
    return window


def smoothing(count: int) -> int:
    """Return over how many steps a line of `count` values is averaged; 1 for up to 600."""
    return 1 if count <= _MOST_RAW else count // 100


def moving_mean(values: npt.NDArray[Any], window: int) -> npt.NDArray[np.float64]:
    """Return the mean of the finite values around each one; NaN where it is not finite itself.

    Parameters
    ----------
    values
        Dims (step,).
    window
        How many values are averaged; fewer at both ends.

    Examples
    --------
    >>> moving_mean(np.array([0.0, 3.0, 6.0, np.nan]), 3)
    array([1.5, 3. , 4.5, nan])
    """
    known = np.isfinite(values)
    sums = np.convolve(np.where(known, values, 0.0), np.ones(window), mode="full")
    counts = np.convolve(known.astype(float), np.ones(window), mode="full")
    first = (window - 1) // 2
    chosen = slice(first, first + values.size)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, sums[chosen] / counts[chosen], np.nan)


def isolated(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell which finite values have no finite neighbour, so that a line does not show them.

    Examples
    --------
    >>> isolated(np.array([1.0, 2.0, np.nan, 3.0]))
    array([False, False, False,  True])
    """
    known = np.isfinite(values)
    before, after = np.roll(known, 1), np.roll(known, -1)
    before[:1], after[-1:] = False, False
    return np.asarray(known & ~before & ~after)


def set_step_axis(axes: Axes, steps: npt.NDArray[Any]) -> None:
    """Make the horizontal axis one of training steps, with room for a single one."""
    low, high = (float(steps.min()), float(steps.max())) if steps.size else (0.0, 0.0)
    pad = max(0.5, 0.01 * (high - low))
    axes.set_xlim(low - pad, high + pad)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
