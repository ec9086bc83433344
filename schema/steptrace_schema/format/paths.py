"""Paths of arrays: which names a trace can have, and how others are changed into such."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.+\-]+")


def safe_path(name: str) -> str:
    """Return `name` with every segment made safe as a group name in a store and on disk.

    Examples
    --------
    >>> safe_path("my model/dense:0/kernel")
    'my_model/dense_0/kernel'
    >>> safe_path("../x")
    'unnamed/x'
    """
    return "/".join(_safe_segment(segment) for segment in name.split("/") if segment)


def _safe_segment(segment: str) -> str:
    cleaned = _UNSAFE.sub("_", segment)
    if not cleaned.strip("._"):
        return "unnamed"
    if cleaned.startswith("__") or cleaned == "zarr.json":
        return "_" + cleaned.lstrip("_")
    return cleaned


def is_safe_path(path: str) -> bool:
    """Whether `path` is one that :func:`safe_path` leaves as it is, and not empty."""
    return bool(path) and safe_path(path) == path


def unique_paths(paths: Iterable[str]) -> list[str]:
    """Make `paths` safe and distinct; a repeated one gets the suffix ``_1``, ``_2``, ...

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
        while candidate in seen:
            suffix += 1
            candidate = f"{base}_{suffix}"
        seen.add(candidate)
        result.append(candidate)
    return result
