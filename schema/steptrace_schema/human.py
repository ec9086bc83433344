"""Numbers, and the text of others, as text."""

from __future__ import annotations

import math
import re
import unicodedata

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def human_bytes(count: float) -> str:
    """Return a byte count as text.

    Examples
    --------
    >>> human_bytes(61_000_000), human_bytes(999_999)
    ('61 MB', '1 MB')
    """
    if count < 999.5:
        return f"{count:.0f} B"
    power = min(6, int(math.log10(float(f"{count:.3g}")) // 3))  # as it is written
    value = count / 1000**power
    return f"{value:.3g} {' kMGTPE'[power]}B"


def ordinal(number: int) -> str:
    """Return a place in an order.

    Examples
    --------
    >>> ordinal(2), ordinal(11), ordinal(32), ordinal(1024)
    ('2nd', '11th', '32nd', '1024th')
    """
    last = 0 if number // 10 % 10 == 1 else number % 10
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"


def one_line(text: str, most: int = 1000) -> str:
    r"""Return `text` on one line, cut to `most` characters, without control characters.

    Examples
    --------
    >>> one_line("a\nb"), one_line("abcdef", 4)
    ('a\\nb', 'abc…')
    """
    cut = text if len(text) <= most else f"{text[: most - 1]}…"
    return printable(cut).replace("\n", "\\n")


def without_colours(text: str) -> str:
    r"""Return `text` without the colours of a terminal, which Keras has in its messages.

    Examples
    --------
    >>> without_colours("\x1b[1mcannot add\x1b[0m")
    'cannot add'
    """
    return _COLOUR.sub("", text)


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
