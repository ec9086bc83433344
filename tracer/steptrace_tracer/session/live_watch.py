"""Reporting what breaks in a training while it runs."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal

from steptrace_tracer.record.live_rules import LIVE_RULES, Alarm

if TYPE_CHECKING:
    from steptrace_schema.storage.location import Location

_MOST_EVENTS: Final = 100  # of one tracer, so that a trace does not fill up with them


@dataclasses.dataclass(frozen=True)
class LiveFinding:
    """What a rule found while the training ran.

    Attributes
    ----------
    rule
        Its name: ``non_finite``, ``loss_spike``, ``gradient_jump`` or ``update_jump``.
    step
        The step at which it is. A jump of the update is seen one step later.
    explanation
        One sentence, without a full stop.
    """

    rule: str
    step: int
    explanation: str


OnFinding = Literal["warn", "mark", "stop"] | Callable[[LiveFinding], Any]
"""What is done with a finding; a function is called with it."""


class LiveWatch:
    """Keeps what the rules found until it is reported, between two steps.

    Parameters
    ----------
    rules
        Names of the rules to report.
    on_finding
        What is done with a finding.
    path
        Of the trace, which a warning names.

    Attributes
    ----------
    rules, on_finding
        As given.
    stop
        The finding because of which the training is to stop; None while there is none.

    Raises
    ------
    ValueError
        If there is no such rule, or no such way.
    """

    def __init__(self, rules: str | Iterable[str], on_finding: OnFinding, path: Location) -> None:
        self.rules = (rules,) if isinstance(rules, str) else tuple(rules)
        unknown = [rule for rule in self.rules if rule not in LIVE_RULES]
        if unknown:
            msg = f"watch has {unknown[0]!r}; the rules are {', '.join(LIVE_RULES)}"
            raise ValueError(msg)
        if not callable(on_finding) and on_finding not in ("warn", "mark", "stop"):
            msg = f"on_finding is {on_finding!r}; it must be 'warn', 'mark', 'stop' or a function"
            raise ValueError(msg)
        self.stop: LiveFinding | None = None
        self.on_finding: OnFinding = on_finding
        self._path = path
        self._waiting: list[LiveFinding] = []
        self._events = 0

    @property
    def stops(self) -> bool:
        """Whether a finding stops the training."""
        return bool(self.rules) and self.on_finding == "stop"

    def note(self, alarms: Iterable[Alarm]) -> tuple[str, ...]:
        """Keep what is watched for; return sentences for the events of the trace."""
        first: dict[tuple[str, int], LiveFinding] = {}  # the loss, before the gradients with it
        for alarm in alarms:
            if alarm.rule in self.rules:
                found = LiveFinding(alarm.rule, alarm.step, alarm.reason)
                first.setdefault((found.rule, found.step), found)
        self._waiting += first.values()
        told = list(first.values())[: _MOST_EVENTS - self._events]
        self._events += len(told)
        ending = ", so that the training is stopped" if self.on_finding == "stop" else ""
        return tuple(
            f"{each.rule}: at step {each.step} {each.explanation}{ending}" for each in told
        )

    def tell(self, mark: Callable[[], None]) -> bool:
        """Do what is to be done with what was found since the last time.

        Parameters
        ----------
        mark
            Marks the present step.

        Returns
        -------
        bool
            Whether the training is to stop.
        """
        found, self._waiting = self._waiting, []
        for each in found:
            if callable(self.on_finding):
                self.on_finding(each)
            elif self.on_finding == "mark":
                mark()
            elif self.on_finding == "stop":
                self.stop = self.stop or each
            else:
                text = f"{self._path}: at step {each.step} {each.explanation} ({each.rule})"
                warnings.warn(text, RuntimeWarning, stacklevel=3)
        return bool(found) and self.on_finding == "stop"
