"""What running one recorded step again gave."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from steptrace_schema.json_ready import as_json

_MOST: Final = 4  # arrays that are named


@dataclasses.dataclass(frozen=True)
class Compared:
    """One array that the step gave, now and then.

    Attributes
    ----------
    name
        Kind and path.
    identical
        Whether every bit is the same.
    difference
        The largest difference of two elements; None where one is not finite.
    """

    name: str
    identical: bool
    difference: float | None = None


@dataclasses.dataclass(frozen=True)
class Replay:
    """What running a recorded step again gave.

    Attributes
    ----------
    step
        Its number.
    compared
        What it gave, against the record; empty where operations were checked, or it raised.
    not_restored
        What could not be restored, each a sentence with the reason.
    error
        The exception that the step raised; None where it did not.
    error_is_recorded
        Whether that is the exception of the recorded step; None where that raised none.
    """

    step: int
    compared: tuple[Compared, ...] = ()
    not_restored: tuple[str, ...] = ()
    error: str | None = None
    error_is_recorded: bool | None = None

    @property
    def is_same(self) -> bool:
        """Whether the step gave the same bits, or raised the same exception."""
        if self.error is not None or self.error_is_recorded is not None:
            return bool(self.error_is_recorded)
        return bool(self.compared) and all(each.identical for each in self.compared)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        fields: dict[str, Any] = as_json(self)
        return fields | {"is_same": self.is_same}

    def __str__(self) -> str:
        """Say it in a few lines."""
        lines = [f"step {self.step}: {self._outcome()}"]
        lines += [f"  not restored: {each}" for each in self.not_restored]
        if self.error is not None:
            lines += [f"  {line}".rstrip() for line in self.error.splitlines()]
        return "\n".join(lines)

    def _outcome(self) -> str:
        if self.error is not None:
            if self.error_is_recorded is None:
                return "it raised an exception, which the recorded step did not"
            same = "the same exception as" if self.error_is_recorded else "another exception than"
            return f"it raised {same} the recorded step"
        if self.error_is_recorded is False:
            return "the recorded step raised an exception, and now it raised none"
        if not self.compared:
            return "no operation gave a number that is not finite"
        others = [each for each in self.compared if not each.identical]
        if not others:
            return f"the same bits in all {len(self.compared)} arrays that are recorded of it"
        named = [
            each.name if each.difference is None else f"{each.name} by {each.difference:.3g}"
            for each in others[:_MOST]
        ]
        more = f" and {len(others) - _MOST} more" if len(others) > _MOST else ""
        return f"{len(others)} of {len(self.compared)} arrays differ: {', '.join(named)}{more}"


class Replayed(BaseException):
    """Ends a script at its step; no ``except Exception`` keeps it."""

    def __init__(self, replay: Replay) -> None:
        super().__init__()
        self.replay = replay
