"""JSON of metadata: written, and read as from a stranger, bounded in size and depth."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic_core import to_json

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_BYTES: Final = 64 * 2**20
"""Of one file with metadata; that of a model with 10,000 tensors takes about 20 MiB."""
MOST_DEPTH: Final = 64
"""Lists and objects inside each other. What reads the result may call itself for each of them."""

_HALF_CHARACTER: Final = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
_BRACKETS: Final = b"[]{}"
_OTHERS: Final = bytes(byte for byte in range(256) if byte not in _BRACKETS)
_STEP: Final = np.zeros(256, np.int8)
_STEP[list(b"[{")] = 1
_STEP[list(b"]}")] = -1


def metadata_json(value: object) -> bytes:
    r"""Return the JSON of metadata, in UTF-8 and indented, as zarr-python writes them.

    Those of a large model are rewritten with every shard; Python's own package takes six times as
    long where it indents.

    Parameters
    ----------
    value
        JSON values. A number that is not finite becomes a text, as Zarr writes fill values.

    Examples
    --------
    >>> metadata_json({"a": [1, float("nan")]})
    b'{\n  "a": [\n    1,\n    "NaN"\n  ]\n}'
    """
    return to_json(value, indent=2, inf_nan_mode="strings")


def parse_json(
    content: str | bytes, *, parse_constant: Callable[[str], object] | None = None
) -> Any:
    """Return what JSON says.

    Parameters
    ----------
    content
        The text, or its bytes in UTF-8.
    parse_constant
        Called with each of the bare words ``NaN``, ``Infinity`` and ``-Infinity``.

    Raises
    ------
    ValueError
        If it is no JSON, has more than `MOST_BYTES`, is nested deeper than `MOST_DEPTH`, or has a
        text that is no Unicode.

    Examples
    --------
    >>> parse_json('{"a": [1, 2]}')
    {'a': [1, 2]}
    """
    if len(content) > MOST_BYTES:
        msg = f"it has {len(content)} bytes, where {MOST_BYTES} are the most"
        raise ValueError(msg)
    encoded = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    try:
        value = json.loads(content, parse_constant=parse_constant)
    except RecursionError:
        raise _too_deep() from None
    # Brackets in strings count too here, so that only what looks deep is looked at in full.
    depths = np.cumsum(
        _STEP[np.frombuffer(encoded.translate(None, _OTHERS), np.uint8)], dtype=np.int32
    )
    if len(depths) and depths.max() > MOST_DEPTH and _is_deeper(value, MOST_DEPTH):
        raise _too_deep()
    if _HALF_CHARACTER.search(encoded):  # which is a half only if the other one is not behind it
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            msg = "a text in it has half a character, which no file can hold"
            raise ValueError(msg) from None
    return value


def _too_deep() -> ValueError:
    return ValueError(f"its lists and objects are nested deeper than {MOST_DEPTH}")


def _is_deeper(value: object, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        inside: list[object] = []
        for each in level:
            if isinstance(each, dict):
                inside += each.values()
            elif isinstance(each, list):
                inside += each
        level = [each for each in inside if isinstance(each, dict | list)]
        if not level:
            return False
    return True
