"""Where a recording was resumed: between the two steps anything may have set the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steptrace_schema.format.attributes import RESUMED

if TYPE_CHECKING:
    from steptrace_analyzer.anomalies.signals import Signals


def resumed_at(signals: Signals, step: int) -> bool:
    """Whether a step is the first one that was recorded after a recording was resumed."""
    events = signals.attributes.events
    return any(event.step == step and event.message.startswith(RESUMED) for event in events)
