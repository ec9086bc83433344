"""Steps at which a tensor of a trace has no value: it begins or ends to exist in mid-run."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from steptrace_analyzer.trace.select import format_steps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_schema.names import Kind

    Absent: TypeAlias = dict[int, str]
    """Step to the reason why there is no value."""


def absent_rows(attributes: TraceAttributes) -> dict[tuple[Kind, str], Absent]:
    """Return the steps at which tensors have no value, by kind and path, with the reasons.

    Their rows there are fill values, and no data.
    """
    found: dict[tuple[Kind, str], Absent] = {}
    for entry in attributes.missing:
        if entry.steps:
            own = found.setdefault((entry.kind, entry.path), {})
            own.update(dict.fromkeys(entry.steps, entry.reason))
    return found


def absence_text(absent: Mapping[int, str]) -> str:
    """Say at which steps there is no value, and why.

    Examples
    --------
    >>> absence_text({3: "the layer is not called", 4: "the layer is not called"})
    'no value at steps 3-4 (the layer is not called)'
    """
    by_reason: dict[str, list[int]] = {}
    for step, reason in sorted(absent.items()):
        by_reason.setdefault(reason, []).append(step)
    parts = [f"at {_word(steps)} ({reason})" for reason, steps in by_reason.items()]
    return f"no value {' and '.join(parts)}"


def _word(steps: list[int]) -> str:
    return f"step{'s' if len(steps) > 1 else ''} {format_steps(steps)}"
