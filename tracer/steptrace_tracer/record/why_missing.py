"""Why tensors are missing, where that differs from step to step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Set

    from steptrace_schema.format.attributes import Missing

_ELSEWHERE: Final = "; at other steps, "


def with_reasons(
    told: tuple[Missing, ...], found: Iterable[Missing], recorded: Set[str]
) -> tuple[Missing, ...]:
    """Return what is missing, `told` itself where nothing is new.

    A tensor that is missing for different reasons at different steps, as in a step that trains two
    models in turn, has both in its one entry.

    Parameters
    ----------
    told
        What the trace says so far.
    found
        What a step has no data for.
    recorded
        Keys of the arrays that other steps have data for.
    """
    known = {(entry.kind, entry.path): entry for entry in told}
    changed = False
    for entry in found:
        if f"{entry.kind}/{entry.path}" in recorded:
            continue
        key = (entry.kind, entry.path)
        earlier = known.get(key)
        if earlier is None:
            known[key] = entry
        elif entry.reason in earlier.reason or _ELSEWHERE in earlier.reason:
            continue
        else:
            reason = f"{earlier.reason}{_ELSEWHERE}{entry.reason}"
            known[key] = entry.model_copy(update={"reason": reason})
        changed = True
    return tuple(known.values()) if changed else told
