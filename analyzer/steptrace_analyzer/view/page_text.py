"""Text of a trace inside the page: always text, never markup or mathematics."""

from __future__ import annotations

from html import escape

from steptrace_analyzer.text import one_line

_DOLLARS = "$\u2060$"  # bokeh takes $$ for the begin of a formula


def shown(text: str, most: int = 200) -> str:
    """Return text for widgets and canvases, which show it as it is."""
    return (
        one_line(text, most)
        .replace("$$", _DOLLARS)
        .replace("\\(", "\\\u2060(")
        .replace("\\[", "\\\u2060[")
    )


def html(text: str, most: int = 2000) -> str:
    """Return text for a place that takes HTML.

    Examples
    --------
    >>> html("<b>")
    '&lt;b&gt;'
    """
    return escape(shown(text, most))
