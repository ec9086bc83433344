"""The copy of all metadata that the root of a finished trace holds, as zarr-python reads it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONSOLIDATED: Final = "consolidated_metadata"
"""The field of the root's zarr.json that holds the copy."""


def consolidated(metadata: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the copy of the metadata of the groups and arrays below the root, by path."""
    return _with({key: metadata[key] for key in sorted(metadata, key=_outer_first)})


def _outer_first(key: str) -> tuple[int, str]:
    return key.count("/"), f"{key}/"


def differences(
    root: Mapping[str, Any], metadata: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """Yield where the metadata of a trace are not what its root says they are.

    Parameters
    ----------
    root
        The metadata of the root group, as JSON values.
    metadata
        Those of the groups and arrays below it, by path.

    Yields
    ------
    tuple of str
        The path of the group or array, what the root says, and what is there.
    """
    for key, entry in root.get(CONSOLIDATED, _with({}))["metadata"].items():
        expected = {k: v for k, v in entry.items() if k != CONSOLIDATED}
        if key not in metadata:
            yield key, "as in the root's zarr.json", "no such file"
        elif metadata[key] != expected:
            yield key, *_first_difference(expected, metadata[key], "")


def _first_difference(expected: Any, found: Any, where: str) -> tuple[str, str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in (*expected, *found):
            there = f"{where}.{key}".removeprefix(".")
            if key not in found:
                return f"'{there}' {_short(expected[key])}", "nothing"
            if key not in expected:
                return f"no '{there}'", _short(found[key])
            if found[key] != expected[key]:
                return _first_difference(expected[key], found[key], there)
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (left, right) in enumerate(zip(expected, found, strict=True)):
            if left != right:
                return _first_difference(left, right, f"{where}[{number}]")
    return f"'{where}' {_short(expected)}", _short(found)


def _short(value: Any) -> str:
    return f"{json.dumps(value):.80}"


def _with(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the copy with these entries; one of a group says that it lists nothing itself."""
    listed = {
        key: {**entry, CONSOLIDATED: _with({})} if entry["node_type"] == "group" else entry
        for key, entry in entries.items()
    }
    return {"kind": "inline", "must_understand": False, "metadata": listed}
