"""Which losses a trace says that its targets have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steptrace_schema.format.attributes import TargetLoss


class KnownLosses:
    """The losses of the targets, as long as all steps have the same.

    Parameters
    ----------
    earlier
        Those of the trace that is resumed; None for a new one.
    """

    def __init__(self, earlier: tuple[TargetLoss, ...] | None) -> None:
        self._found = earlier

    def news(self, found: tuple[TargetLoss, ...]) -> dict[str, Any]:
        """Return root attributes that the trace does not have yet, after a step with losses."""
        told, self._found = self._found or (), found if self._found in (None, found) else ()
        return {} if self._found == told else {"losses": self._found}
