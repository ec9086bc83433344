"""A picture on the page: its title, the image whose pixels can be asked, its range of colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.layouts import column
from bokeh.models import (
    ColumnDataSource,
    Div,
    HoverTool,
    ImageRGBA,
    Plot,
    Range1d,
)
from matplotlib.colors import AsinhNorm

from steptrace_analyzer.plots.pictures import gradient_css
from steptrace_analyzer.view.look import BARE, WIDGETS
from steptrace_analyzer.view.page_text import html, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from steptrace_analyzer.plots.pictures import Frame, Image

_NARROWEST, _WIDEST = 0.75, 3.2  # width over height
_STRIP = 6.0
_PLACES = ("p0", "p1", "p2", "p3", "p4", "p5")


class PictureView:
    """Shows one :class:`Frame`, and of it one :class:`Image` after the other.

    Parameters
    ----------
    name
        Of its figure in the document.
    on_tap
        Called with the index along the last dimension where a pixel is clicked on.
    """

    def __init__(self, name: str, on_tap: Callable[[int], None] | None = None) -> None:
        self._title = Div(text="", sizing_mode="stretch_width", stylesheets=[WIDGETS])
        self._scale = Div(text="", sizing_mode="stretch_width", stylesheets=[WIDGETS])
        self._source = ColumnDataSource(data={"image": [], "value": []})
        self._hover = HoverTool(tooltips=[], formatters={"@value": "printf"})
        # A plot without axes and grid: each text and line of them would be looked up in the page's
        # styles whenever the canvas is painted, which takes longer than the picture. Hovering says
        # the numbers, the note what is what.
        self.figure = Plot(
            name=name,
            x_range=Range1d(0, 1),
            y_range=Range1d(0, 1),
            sizing_mode="scale_width",
            aspect_ratio=1.2,
            min_border=4,
            **BARE,
        )
        self.figure.toolbar_location = None
        self.figure.add_tools(self._hover)
        glyph = ImageRGBA(image="image", x=-0.5, y=-0.5, dw=1, dh=1)
        self._image = self.figure.add_glyph(self._source, glyph)
        self._frame: Frame | None = None
        self._said = ""
        if on_tap is not None:
            self.figure.on_event("tap", lambda event: self._tapped(event, on_tap))
        self.root = column(
            self._title, self.figure, self._scale, sizing_mode="stretch_width", visible=False
        )

    def hide(self) -> None:
        """Show nothing."""
        self._frame = None
        self.root.visible = False
        self._source.data = {"image": [], "value": []}

    def frame(self, title: str, frame: Frame | None, image: Image | None, missing: str) -> None:
        """Show another subject; where there is no picture of it, say why.

        Parameters
        ----------
        title
            What the subject is called.
        frame, image
            What is shown of it; None where nothing can be.
        missing
            Why there is no image.
        """
        self._frame = frame
        self.root.visible = True
        self.figure.visible = self._scale.visible = frame is not None
        if frame is None:
            self._source.data = {"image": [], "value": []}
            self._said = f"<b>{html(title)}</b> <i>{html(missing)}</i>"
            self._title.text = self._said
            return
        rows, columns = frame.shape
        names = list(zip(_PLACES, frame.places, strict=False))
        where = ", ".join(f"{shown(name, 40)} @{key}" for key, name in names)
        self._hover.tooltips = [("value", "@value{%.5g}"), *([("at", where)] if where else [])]
        self._image.glyph.update(dw=columns, dh=rows)
        self.figure.x_range.update(start=-0.5, end=columns - 0.5)
        self.figure.y_range.update(start=-0.5, end=rows - 0.5)
        ratio = columns / rows if frame.tiling.square else (_STRIP if rows == 1 else 1.2)
        self.figure.aspect_ratio = float(
            np.clip(ratio, _NARROWEST, _WIDEST if rows > 1 else _STRIP)
        )
        self._scale.text = _scale_html(frame)
        data: dict[str, Any] = {"image": [], "value": []}
        data |= {key: [frame.places[name]] for key, name in names}
        data["image"], data["value"] = _columns(frame, image)
        self._source.data = data
        self._say(missing if image is None else "")

    def show(self, image: Image | None, missing: str) -> None:
        """Show another step of the same subject."""
        if self._frame is None:
            return
        images, values = _columns(self._frame, image)
        self._source.data.update(image=images, value=values)  # one message for both
        self._say(missing if image is None else "")

    def _say(self, text: str) -> None:
        assert self._frame is not None
        said = f"<b>{html(self._frame.title)}</b>" + (f" <i>{html(text)}</i>" if text else "")
        if said != self._said:
            self._said = said
            self._title.text = said

    def _tapped(self, event: Any, on_tap: Callable[[int], None]) -> None:
        if self._frame is None or not self._frame.places:
            return
        rows, columns = self._frame.shape
        row, column_ = round(event.y), round(event.x)
        if (
            0 <= row < rows
            and 0 <= column_ < columns
            and not self._frame.tiling.gap[::-1][row, column_]
        ):
            last = list(self._frame.places.values())[-1]
            on_tap(int(last[row, column_]))


def _columns(frame: Frame, image: Image | None) -> tuple[list[Any], list[Any]]:
    if image is None:
        blank = np.zeros(frame.shape, np.uint32), np.full(frame.shape, np.nan, np.float32)
        return [blank[0]], [blank[1]]
    return [image.rgba], [image.values]


def _scale_html(frame: Frame) -> str:
    low, high = float(frame.norm.vmin or 0.0), float(frame.norm.vmax or 1.0)
    bends = isinstance(frame.norm, AsinhNorm)
    bent = (
        f"<small>at 75 %: {float(np.asarray(frame.norm.inverse(0.75))):.3g}</small>"
        if bends
        else ""
    )
    across, down = frame.tiling.x_label, frame.tiling.y_label
    where = ", ".join(
        f"{way} {html(text)}" for way, text in (("across:", across), ("down:", down)) if text
    )
    note = f"<small>{'. '.join(filter(None, [where, html(frame.note)]))}</small>"
    return (
        f'<div class="scale"><span>{low:.3g}</span>'
        f'<span class="bar" style="background:{gradient_css(frame.colours)}"></span>'
        f"<span>{high:.3g}</span>{bent}</div>"
        f"<div>{note}</div>"
    )
