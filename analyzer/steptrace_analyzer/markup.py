"""Results as HTML for notebooks, in which no text from a trace can become markup."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from steptrace_analyzer.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LEFT = "style='text-align:left;vertical-align:top'"
_LONGEST = 2000


def text_html(text: str) -> str:
    r"""Return text for a place that takes HTML, cut where it is endless.

    Examples
    --------
    >>> text_html("<b>\x1b")
    '&lt;b&gt;\\x1b'
    """
    cut = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return escape(printable(cut))


def facts_html(facts: Iterable[tuple[str, str]]) -> str:
    """Return names beside their values; those without a value are left out.

    Examples
    --------
    >>> facts_html([("a", "1"), ("b", "")]).count("<tr>")
    1
    """
    rows = "".join(
        f"<tr><th {_LEFT}>{text_html(name)}</th><td {_LEFT}>{text_html(value)}</td></tr>"
        for name, value in facts
        if value
    )
    return f"<table>{rows}</table>"


def table_html(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Return a table whose cells are text."""
    above = f"<caption {_LEFT}>{text_html(caption)}</caption>" if caption else ""
    cells = "".join(f"<th {_LEFT}>{text_html(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td {_LEFT}>{text_html(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table>{above}<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
