"""Building HTML in which no text from a trace can become markup."""

from __future__ import annotations

import dataclasses
import html
from typing import TYPE_CHECKING, Final

from steptrace_analyzer.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_VOID: Final = frozenset({"img", "input", "meta"})


@dataclasses.dataclass(frozen=True)
class Markup:
    """HTML that is safe to be part of a page: all text in it is escaped."""

    text: str


def element(tag: str, *children: str | Markup, **attributes: str | int | None) -> Markup:
    """Build an element; strings are escaped, in content and in attributes.

    Parameters
    ----------
    tag
        Name of the element, from the program, never from a trace.
    *children
        Text or other elements.
    **attributes
        Names with ``_`` for ``-`` and at the end of a Python keyword; None leaves one out.

    Examples
    --------
    >>> element("p", "a < b", class_="note").text
    '<p class="note">a &lt; b</p>'
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{join(children).text}</{tag}>")


def join(parts: Iterable[str | Markup]) -> Markup:
    """Put texts and elements one after the other."""
    return Markup("".join(p.text if isinstance(p, Markup) else _escape(p) for p in parts))


def table(head: Sequence[str], rows: Iterable[Sequence[str | Markup]], numbers: int = 0) -> Markup:
    """Build a table that scrolls sideways where it is too wide.

    Parameters
    ----------
    head
        Names of the columns.
    rows
        Cells of each row.
    numbers
        How many of the last columns are numbers, set flush right.
    """
    first = len(head) - numbers

    def cells(tag: str, row: Sequence[str | Markup]) -> Markup:
        return element(
            "tr",
            *(
                element(tag, cell, class_="number" if column >= first else None)
                for column, cell in enumerate(row)
            ),
        )

    return element(
        "div",
        element(
            "table",
            element("thead", cells("th", head)),
            element("tbody", *(cells("td", row) for row in rows)),
        ),
        class_="scroll",
        tabindex=0,
    )


def facts(pairs: Iterable[tuple[str, str | Markup]]) -> Markup:
    """Build a list of names with their values."""
    return element(
        "dl",
        *(
            element("div", element("dt", name), element("dd", value))
            for name, value in pairs
            if value
        ),
    )


def _escape(text: str) -> str:
    # Images are megabytes of plain characters: only other text is looked at one by one.
    return html.escape(text if text.isprintable() else printable(text), quote=True)
