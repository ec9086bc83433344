"""Numbers and names as text."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def one_line(text: str, most: int = 1000) -> str:
    r"""Return `text` on one line, cut to `most` characters, without control characters.

    Examples
    --------
    >>> one_line("a\nb"), one_line("abcdef", 4)
    ('a\\nb', 'abc…')
    """
    cut = text if len(text) <= most else f"{text[: most - 1]}…"
    return printable(cut).replace("\n", "\\n")


def printable(text: str) -> str:
    r"""Return `text` with control characters written as escapes; a trace may hold any string.

    Examples
    --------
    >>> printable("red\x1b[31m")
    'red\\x1b[31m'
    """
    return "".join(
        character
        if unicodedata.category(character)[0] != "C" or character == "\n"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def shape_text(shape: Sequence[int | None]) -> str:
    """Write a layer's output shape.

    Examples
    --------
    >>> shape_text((None, 28, 28))
    'batch x 28 x 28'
    """
    return " x ".join("batch" if size is None else str(size) for size in shape)
