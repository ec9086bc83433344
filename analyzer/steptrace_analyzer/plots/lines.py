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
