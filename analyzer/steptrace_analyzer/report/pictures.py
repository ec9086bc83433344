"""Figures as images inside the page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from steptrace_analyzer.plots.style import style
from steptrace_analyzer.report.contents import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI: Final = 100
_COLOURS: Final = 256
_LARGEST_VECTOR: Final = 250_000  # bytes; a larger SVG is slow to show and a PNG is smaller


def line_picture(figure: Figure, alt: str) -> Picture:
    """Return a figure of lines as an SVG image, or as PNG where it has too many points."""
    file = io.BytesIO()
    with style():
        figure.savefig(file, format="svg", metadata={"Date": None})
    if len(file.getvalue()) > _LARGEST_VECTOR:
        return pixel_picture(figure, alt)
    return _image(figure, "image/svg+xml", file.getvalue(), alt)


Layout = list[Any]
"""Places of a figure's axes, which figures of the same kind take over."""


def pixel_picture(figure: Figure, alt: str, layout: Layout | None = None) -> Picture:
    """Return a figure as a PNG image with a palette, a third of the size of one without.

    Parameters
    ----------
    figure, alt
        The figure, and what it shows.
    layout
        The places of the axes of a figure of another step. An empty list is filled. To find them
        takes more time than to draw.
    """
    figure.set_dpi(_DPI)
    if layout and len(layout) == len(figure.axes):
        figure.set_layout_engine("none")
        for axes, place in zip(figure.axes, layout, strict=True):
            axes.set_position(place)
    canvas = FigureCanvasAgg(figure)  # figure.savefig would draw twice and encode all colours
    with style():
        canvas.draw()  # type: ignore[no-untyped-call]
    if layout is not None and not layout:
        layout.extend(axes.get_position(original=True) for axes in figure.axes)
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    image = Image.fromarray(pixels[..., :3].copy())
    # Of Pillow's methods, the one that keeps a colour that few pixels have: a mark, a NaN.
    image = image.quantize(_COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    file = io.BytesIO()
    image.save(file, format="png", compress_level=6)
    return _image(figure, "image/png", file.getvalue(), alt)


def _image(figure: Figure, media_type: str, data: bytes, alt: str) -> Picture:
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    source = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return Picture(source, alt, width, height)
