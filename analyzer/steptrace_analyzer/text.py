"""Numbers and names as a person reads them."""

from __future__ import annotations

import unicodedata


def format_bytes(count: int) -> str:
    """Write a number of bytes for a person.

    Examples
    --------
    >>> format_bytes(0), format_bytes(1_536), format_bytes(3 * 2**30)
    ('0 B', '1.5 KiB', '3.0 GiB')
    """
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(len(units) - 1, max(0, count.bit_length() - 1) // 10)
    return f"{count / 1024**power:.1f} {units[power]}" if power else f"{count} B"


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
