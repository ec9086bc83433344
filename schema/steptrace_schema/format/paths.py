"""Paths of arrays: which names a trace can have, and how others are changed into such."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import xxhash

if TYPE_CHECKING:
    from collections.abc import Iterable

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.+\-]+")


_RESERVED: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.ASCII | re.IGNORECASE)
"""Names that are devices on Windows, with any ending."""
LONGEST_SEGMENT: Final = 80
"""Characters of a name that is written: paths of 260 characters are the most on many systems."""


def safe_path(name: str) -> str:
    """Return `name` with every segment made one that each system can have as a folder.

    Examples
    --------
    >>> safe_path("my model/dense:0/kernel")
    'my_model/dense_0/kernel'
    >>> safe_path("../x"), safe_path("con/kernel.")
    ('unnamed/x', 'con_/kernel_')
    """
    return "/".join(_portable(_safe_segment(segment)) for segment in name.split("/") if segment)


def _safe_segment(segment: str) -> str:
    cleaned = _UNSAFE.sub("_", segment)
    if not cleaned.strip("._"):
        return "unnamed"
    if cleaned.startswith("__") or cleaned == "zarr.json":
        return "_" + cleaned.lstrip("_")
    return cleaned


def _portable(segment: str) -> str:
    if match := _RESERVED.fullmatch(segment):
        segment = f"{match[1]}_{match[2] or ''}"
    if segment.endswith("."):
        segment = segment.rstrip(".") + "_"
    if len(segment) > LONGEST_SEGMENT:  # cut, and still another one than others that begin alike
        digest = xxhash.xxh3_64_hexdigest(segment.encode())
        segment = f"{segment[: LONGEST_SEGMENT - 17]}-{digest}"
    return segment


def is_safe_path(path: str) -> bool:
    """Whether `path` stays inside of its group; traces before 1.3 may have any such.

    Examples
    --------
    >>> is_safe_path("con/kernel"), is_safe_path("../kernel"), is_safe_path("")
    (True, False, False)
    """
    return bool(path) and all(s and _safe_segment(s) == s for s in path.split("/"))


def is_portable_path(path: str) -> bool:
    """Whether `path` is one that :func:`safe_path` leaves as it is, and not empty.

    Examples
    --------
    >>> is_portable_path("dense/kernel"), is_portable_path("con/kernel")
    (True, False)
    """
    return bool(path) and safe_path(path) == path


def unique_paths(paths: Iterable[str]) -> list[str]:
    """Make `paths` safe and distinct; a repeated one gets the suffix ``_1``, ``_2``, ...

    Two that differ in case alone are one folder on some systems, and count as repeated.

    Examples
    --------
    >>> unique_paths(["dense/kernel", "dense/kernel", "a b"])
    ['dense/kernel', 'dense/kernel_1', 'a_b']
    """
    result: list[str] = []
    seen: set[str] = set()
    for path in paths:
        base = candidate = safe_path(path) or "unnamed"
        suffix = 0
        while candidate.lower() in seen:
            suffix += 1
            candidate = safe_path(f"{base}_{suffix}")
        seen.add(candidate.lower())
        result.append(candidate)
    return result
