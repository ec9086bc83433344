"""Why tensors are missing, where that differs from step to step."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Set

    from steptrace_schema.format.attributes import Missing
    from steptrace_schema.format.layout import ArraySpec

NOT_TRAINED: Final = "the weight is not trainable at this step"
"""Said only of weights that other steps train: of the others, no gradient is expected."""
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
        if f"{entry.kind}/{entry.path}" in recorded or entry.reason == NOT_TRAINED:
            continue
        key = (entry.kind, entry.path)
        earlier = known.get(key)
        if earlier is None:
            known[key] = entry
        elif _says(earlier.reason, entry.reason):
            continue
        else:
            reason = _joined(earlier.reason, entry.reason)
            known[key] = entry.model_copy(update={"reason": reason})
        changed = True
    return tuple(known.values()) if changed else told


def with_absence(
    specs: tuple[ArraySpec, ...], recorded: Set[str], found: Iterable[Missing]
) -> tuple[ArraySpec, ...]:
    """Return the table of arrays with why some steps have no value, itself where nothing is new.

    Parameters
    ----------
    specs
        The table.
    recorded
        Keys of the arrays that other steps have data for.
    found
        What a step has no data for, or no step had before.
    """
    reasons: dict[str, str] = {}
    for entry in found:
        if entry.steps is None and (key := f"{entry.kind}/{entry.path}") in recorded:
            reasons.setdefault(key, entry.reason)
    if not reasons:
        return specs
    changed = {
        spec.key: dataclasses.replace(spec, absent=_joined(spec.absent, reasons[spec.key]))
        for spec in specs
        if spec.key in reasons and not (spec.static or _says(spec.absent, reasons[spec.key]))
    }
    return tuple(changed.get(spec.key, spec) for spec in specs) if changed else specs


def _says(known: str | None, reason: str) -> bool:
    return known is not None and (reason in known or _ELSEWHERE in known)


def _joined(known: str | None, reason: str) -> str:
    return reason if known is None else f"{known}{_ELSEWHERE}{reason}"
