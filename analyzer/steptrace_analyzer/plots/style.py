"""How every figure looks: sizes, fonts, colours, titles; whatever the user's own settings are."""

from __future__ import annotations

import textwrap
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from steptrace_analyzer.text import printable
from steptrace_schema.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes

BLACK: Final = "#000000"
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
GREEN: Final = "#009E73"
BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
PURPLE: Final = "#CC79A7"
GREY: Final = "#777777"
LIGHT_GREY: Final = "#D9D9D9"
PALE_GREY: Final = "#E6E6E6"
SILVER: Final = "#BBBBBB"
QUIET: Final = "#555555"
"""Text that says little, and frames."""

CATEGORIES: Final = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, BLACK, GREY)
"""Colours of distinct things; the palette of Okabe and Ito (2008) for colour-blind readers."""

NON_FINITE: Final = "#FF00C8"
"""NaN and infinite values; in none of the colour maps."""
NOT_RECORDED: Final = "#FFFFFF"
ZERO: Final = LIGHT_GREY

SEQUENTIAL: Final = "viridis"
DIVERGING: Final = "RdBu_r"

SEPARATOR: Final = " · "

Drawable: TypeAlias = Figure | SubFigure
"""What a view can be drawn in."""

_given: ContextVar[Drawable | None] = ContextVar("given", default=None)

_FONT: Final = "DejaVu Sans"  # comes with matplotlib, so every machine draws the same
_SETTINGS: Final[dict[str, Any]] = {
    "font.family": [_FONT],
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "figure.titlesize": 12.5,
    "figure.titleweight": "bold",
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.grid": False,
    "grid.color": PALE_GREY,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.4,
    "image.interpolation": "nearest",
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 5),
    "svg.fonttype": "path",
    "svg.hashsalt": "steptrace",  # the same figure gives the same file
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the settings of all figures while drawing or saving, and restore the user's own.

    A trace may hold any numbers: of what overflows nobody is warned.

    Raises
    ------
    TraceError
        If numbers are so large that matplotlib finds no axes for them.
    """
    with matplotlib.rc_context(), np.errstate(all="ignore"), _axes_are_found():
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams
        settings.update(_SETTINGS)
        yield


@contextmanager
def _axes_are_found() -> Iterator[None]:
    try:
        yield
    except (np.linalg.LinAlgError, OverflowError) as error:
        msg = f"this cannot be drawn, because it has numbers that are too large for axes ({error})"
        raise TraceError(msg) from error


@contextmanager
def drawn_in(figure: Drawable | None) -> Iterator[None]:
    """Have the next figure be `figure`, or a part of one; a new one where None."""
    given = _given.set(figure)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        _given.reset(given)


def whole(figure: Figure) -> Figure:
    """Return the figure that something was drawn in, where it was drawn in a part of one."""
    root = figure.get_figure(root=True)
    assert root is not None
    return root


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of `width` by `height` inches that belongs to no window.

    Inside of :func:`drawn_in` it is what was given there, whatever its size.
    """
    given = _given.get()
    if given is not None:
        root: Any = given.get_figure(root=True)
        if root.get_layout_engine() is None:
            root.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
        part: Any = given
        return part  # type: ignore[no-any-return]  # a part of a figure draws as a figure does
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    return Figure(figsize=(width, height), layout=layout)


def set_title(figure: Figure, parts: Sequence[str], notes: Sequence[str] = ()) -> None:
    """Write a figure's title above it and what the reader must know about it below.

    Parameters
    ----------
    figure
        The figure.
    parts
        Of the title: model, step, tensor.
    notes
        Sentences without full stop: how values were reduced, how many are not finite.
    """
    width = figure.bbox.width / figure.get_dpi()  # of a part of a figure, too
    title = _wrap(SEPARATOR.join(label(part) for part in parts), int(width * 9.5))
    figure.suptitle(title, x=0.012, ha="left")
    if notes:
        text = _wrap(label(". ".join(notes) + "."), int(width * 13.5))
        figure.supxlabel(text, x=0.012, ha="left", fontsize=9, color=QUIET)


def label(text: str) -> str:
    r"""Make text from a trace safe to draw: nothing in it is markup, every character has a glyph.

    Examples
    --------
    >>> label("cost $x$ 卷")
    'cost \\$x\\$ ?'
    """
    known = _glyphs()
    drawn = "".join(c if c == "\n" or ord(c) in known else "?" for c in printable(text))
    return drawn.replace("$", r"\$")


def counted(count: int, noun: str) -> str:
    """Write a number of things.

    Examples
    --------
    >>> counted(1, "step"), counted(2000, "step")
    ('1 step', '2,000 steps')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def category_colours(count: int) -> list[str]:
    """Return `count` distinct colours: named ones for a few, else evenly along a sequential map."""
    if count <= len(CATEGORIES):
        return list(CATEGORIES[:count])
    colours = matplotlib.colormaps[SEQUENTIAL]
    return [matplotlib.colors.to_hex(colours(i / (count - 1))) for i in range(count)]


@cache
def _glyphs() -> frozenset[int]:
    path = font_manager.findfont(_FONT)
    return frozenset(font_manager.get_font(path).get_charmap())


def _wrap(text: str, columns: int) -> str:
    return "\n".join(textwrap.wrap(text, columns, break_on_hyphens=False))


def say(axes: Axes, text: str) -> None:
    """Write why there is nothing to draw."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, label(text), ha="center", va="center", color=QUIET, wrap=True)
