"""The jumps of a trace, found once for all rules that ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steptrace_analyzer.anomalies.finding import NotJudgedError
from steptrace_analyzer.anomalies.jumps import find_jumps

if TYPE_CHECKING:
    from steptrace_analyzer.anomalies.jumps import Jump
    from steptrace_analyzer.anomalies.measurements import Series
    from steptrace_analyzer.anomalies.signals import Signals
    from steptrace_schema.names import Kind


def jumps_of(signals: Signals, z: float) -> list[Jump]:
    """Return the jumps of updates and gradients.

    Parameters
    ----------
    signals
        The trace.
    z
        Score from which on an update or gradient is a jump.

    Raises
    ------
    NotJudgedError
        If the trace has neither updates nor gradients.
    """
    updates, gradients = _norms(signals, "updates"), _norms(signals, "gradients")
    if updates is None and gradients is None:
        msg = "the trace holds neither updates nor gradients"
        raise NotJudgedError(msg)
    return signals.once(f"jumps {z}", lambda: find_jumps(signals, z, updates, gradients))


def _norms(signals: Signals, kind: Kind) -> Series | None:
    try:
        return signals.norms(kind)
    except NotJudgedError:
        return None
