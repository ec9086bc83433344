"""What a later minor version of the format has added, left out of root attributes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.format.policy import Policy
from steptrace_schema.names import KINDS

if TYPE_CHECKING:
    from pydantic import ValidationError

_UNKNOWN_VALUE: Final = frozenset({"literal_error", "union_tag_invalid", "extra_forbidden"})
"""What pydantic calls a value, or a field of `retain`, that is none of those that are known."""


def minor_of(version: object) -> int:
    """Return the minor version of ``major.minor``, 0 where it is none.

    Examples
    --------
    >>> minor_of("1.3"), minor_of("1.x")
    (3, 0)
    """
    minor = str(version).partition(".")[2]
    return int(minor) if re.fullmatch(r"\d{1,9}", minor, re.ASCII) else 0


def without_newer_kinds(fields: dict[str, Any]) -> dict[str, Any]:
    """Return root attributes without kinds, and fields of the policy, that nobody knows yet."""
    known = dict(fields)
    for name in ("capture", "declared", "steps_recorded", "statistics_recorded"):
        if isinstance(found := known.get(name), dict):
            known[name] = {kind: value for kind, value in found.items() if kind in KINDS}
    if isinstance(missing := known.get("missing"), (list, tuple)):
        known["missing"] = [
            entry
            for entry in missing
            if not isinstance(entry, dict) or entry.get("kind", "weights") in KINDS
        ]
    if isinstance(policy := known.get("policy"), dict):
        policy = {name: value for name, value in policy.items() if name in Policy.model_fields}
        if isinstance(kinds := policy.get("kinds"), (list, tuple)):
            policy["kinds"] = [kind for kind in kinds if kind in KINDS]
        known["policy"] = policy
    return known


def without_newer_values(fields: dict[str, Any], error: ValidationError) -> dict[str, Any]:
    """Return root attributes without the entries that have a value nobody knows yet.

    Parameters
    ----------
    fields
        Root attributes.
    error
        What is wrong with them.
    """
    left = dict(fields)
    entries = {e["loc"][:2] for e in error.errors() if e["type"] in _UNKNOWN_VALUE}
    for name, _ in {entry for entry in entries if len(entry) > 1}:
        unknown = {entry[1] for entry in entries if entry[0] == name}
        value = fields[str(name)]
        if isinstance(value, dict):
            left[str(name)] = {key: kept for key, kept in value.items() if key not in unknown}
        else:
            left[str(name)] = [kept for n, kept in enumerate(value) if n not in unknown]
    return left
