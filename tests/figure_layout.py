"""Measures whether a figure can be read: no text over another, nothing cut, data that fills it."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from matplotlib.figure import Figure

    Corners = npt.NDArray[np.float64]

_CUT: Final = 1.5  # pixels that a text may leave the figure
_TOUCH: Final = 1.0  # pixels that two texts may share: a box is a little larger than its ink
_FILLED: Final = 0.5


def layout_faults(figure: Figure) -> list[str]:
    """Return what makes a figure unreadable, one sentence each; none where all is well.

    Parameters
    ----------
    figure
        Drawn here, at its own resolution.
    """
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [(text.get_text(), _corners(text, renderer)) for text in visible_texts(figure)]
    width, height = figure.bbox.width, figure.bbox.height
    faults = []
    for text, box in boxes:
        low, high = box.min(axis=0), box.max(axis=0)
        if (low < -_CUT).any() or high[0] > width + _CUT or high[1] > height + _CUT:
            faults.append(f"{text!r} is cut at the figure's edge: {low} to {high}")
    for (one, a), (other, b) in combinations(boxes, 2):
        if _overlap(a, b):
            faults.append(f"{one!r} and {other!r} overlap")
    for axes in figure.findobj(Axes):
        faults += _emptiness(axes)
    return faults


def visible_texts(figure: Figure) -> list[Text]:
    """Return the texts that are drawn: ticks outside of their axis are not."""
    hidden: set[int] = set()
    for axes in figure.findobj(Axes):
        if not axes.get_visible():
            hidden |= {id(text) for text in axes.findobj(Text)}
        for axis in axes.findobj(Axis):
            hidden |= {id(text) for text in axis.findobj(Text)}
            if axes.get_visible() and axes.axison and axis.get_visible():
                hidden -= {id(text) for text in _axis_texts(axis)}
    found = {id(text): text for text in figure.findobj(Text)}
    return [
        text
        for key, text in found.items()
        if key not in hidden and text.get_visible() and text.get_text().strip()
    ]


def _axis_texts(axis: Any) -> Iterator[Text]:
    yield axis.label
    yield axis.get_offset_text()
    low, high = sorted(axis.get_view_interval())
    slack = 1e-6 * (high - low)
    for minor in (False, True):
        places = axis.get_ticklocs(minor=minor)
        for place, text in zip(places, axis.get_ticklabels(minor=minor), strict=False):
            if low - slack <= place <= high + slack:
                yield text


def _corners(text: Text, renderer: Any) -> Corners:
    """Return the corners of a text's box, turned as the text is; dims (corner, 2)."""
    around = text.get_window_extent(renderer)
    turned = text.get_rotation()
    text.set_rotation(0)
    level = text.get_window_extent(renderer)
    text.set_rotation(turned)
    angle = np.deg2rad(turned)
    centre = np.array([(around.x0 + around.x1) / 2, (around.y0 + around.y1) / 2])
    half = np.array([level.width, level.height]) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.asarray(centre + corners @ turn)


def _overlap(a: Corners, b: Corners) -> bool:
    """Tell whether two convex quadrilaterals share more than a line (separating axes)."""
    for box in (a, b):
        for edge in np.diff(box, axis=0, append=box[:1])[:2]:
            length = float(np.hypot(*edge))
            if not length:
                return False
            normal = np.array([-edge[1], edge[0]]) / length
            one, other = a @ normal, b @ normal
            if min(one.max(), other.max()) - max(one.min(), other.min()) <= _TOUCH:
                return False
    return True


def _emptiness(axes: Axes) -> list[str]:
    """Say where data takes less than half of its axes, or an image less than half of its place."""
    if not axes.get_visible() or not axes.axison or axes.name == "3d":
        return []
    faults = []
    name = axes.get_title() or axes.get_ylabel() or "axes"
    if axes.images:
        place, taken = axes.get_position(original=True), axes.get_position()
        share = max(taken.width / place.width, taken.height / place.height)
        if share < 1 - 1e-6:
            faults.append(f"{name!r}: the image fills neither width nor height of its place")
        if min(taken.width / place.width, taken.height / place.height) < _FILLED:
            faults.append(f"{name!r}: the image takes less than half of its place")
        return faults
    limits = axes.dataLim
    for axis, low, high in (
        (axes.xaxis, limits.x0, limits.x1),
        (axes.yaxis, limits.y0, limits.y1),
    ):
        if not len(axis.get_ticklocs()) or not np.isfinite([low, high]).all() or low >= high:
            continue
        scale = axis.get_transform()
        ends = scale.transform(np.array(axis.get_view_interval(), dtype=float))
        inside = np.clip(scale.transform(np.array([low, high])), min(ends), max(ends))
        if abs(inside[1] - inside[0]) < _FILLED * abs(ends[1] - ends[0]):
            faults.append(f"{name!r}: data takes less than half of the {axis.axis_name} axis")
    return faults
