"""The checksum that the root's zarr.json holds of itself. Section 6 of SPEC.md.

It is one of bytes, not of values, so programs need not agree on how numbers are written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google_crc32c import value as crc32c

from steptrace_schema.format.json_text import metadata_json, parse_json
from steptrace_schema.names import ATTRIBUTES_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKSUM_KEY: Final = "checksum"
"""The field of the attribute ``steptrace`` that holds it."""

_ZEROS: Final = "0" * 8


def sealed(root: Mapping[str, Any]) -> bytes:
    """Return the content of the root's zarr.json, with its checksum.

    Parameters
    ----------
    root
        The metadata of the root group, as JSON values. A checksum in it is replaced.

    Examples
    --------
    >>> mismatch(sealed({"attributes": {"steptrace": {"version": "1.2"}}})) is None
    True
    """
    attributes = root["attributes"]
    # First in the file, so that nothing before it can look like it.
    own = _first(CHECKSUM_KEY, _ZEROS, attributes[ATTRIBUTES_KEY])
    document = _first("attributes", _first(ATTRIBUTES_KEY, own, attributes), root)
    content = metadata_json(document)
    return content.replace(_ZEROS.encode(), _digits(content).encode(), 1)


def mismatch(content: bytes, root: Any = None) -> tuple[str, str] | None:
    """Return the checksum of the root's zarr.json and what is stored where they differ.

    Parameters
    ----------
    content
        Valid JSON.
    root
        What it says, where it has been read.

    Returns
    -------
    tuple of str, or None
        The checksum of the content, and the one stored in it; None where they are equal. What is
        stored is empty where there is none.
    """
    stored = _stored(parse_json(content) if root is None else root)
    plain = content.replace(stored.encode(), _ZEROS.encode(), 1) if stored else content
    expected = _digits(plain)
    return None if stored == expected else (expected, stored)


def is_changed(content: bytes, root: Any = None) -> bool:
    """Whether the root's zarr.json states a checksum that is not its own.

    Parameters
    ----------
    content, root
        Valid JSON, and what it says, where it has been read.
    """
    wrong = mismatch(content, root)
    return wrong is not None and bool(wrong[1])


def _first(key: str, value: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value} | {k: v for k, v in fields.items() if k != key}


def _digits(content: bytes) -> str:
    return f"{crc32c(content):08x}"


def _stored(root: Any) -> str:
    try:
        found = root["attributes"][ATTRIBUTES_KEY].get(CHECKSUM_KEY)
    except (KeyError, TypeError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""
