"""Finding training faults in a trace, and what caused them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

from steptrace_analyzer.anomalies.findings import (
    Anomaly,
    Change,
    Evidence,
    InputChange,
    Jump,
    JumpedTensor,
    MovedUnit,
    NonFinite,
    NonFiniteTensor,
)
from steptrace_analyzer.anomalies.jumps import find_jumps
from steptrace_analyzer.anomalies.non_finite import find_non_finite
from steptrace_analyzer.trace.open import opened
from steptrace_schema.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steptrace_analyzer.trace.open import TraceOrPath

__all__ = [
    "ANOMALY_KINDS",
    "DEFAULT_THRESHOLD",
    "Anomaly",
    "AnomalyKind",
    "Change",
    "Evidence",
    "InputChange",
    "Jump",
    "JumpedTensor",
    "MovedUnit",
    "NonFinite",
    "NonFiniteTensor",
    "find_anomalies",
]

AnomalyKind = Literal["jump", "gradient", "non_finite"]
ANOMALY_KINDS: Final[tuple[AnomalyKind, ...]] = get_args(AnomalyKind)
"""What is looked for."""
DEFAULT_THRESHOLD: Final = 8.0
"""Robust z-score of an update's or gradient's log norm from which on it is a jump."""


def find_anomalies(
    trace: TraceOrPath,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    kinds: Sequence[AnomalyKind] = ANOMALY_KINDS,
) -> tuple[Anomaly, ...]:
    """Find sudden jumps of parameters and gradients, and non-finite values.

    Parameters
    ----------
    trace
        A trace, or its path.
    threshold
        Robust z-score, without unit, of the logarithm of an update's L2 norm against the 50
        recorded updates before it; from there on the update is a jump. So for gradients, which are
        reported where no parameter jumped with them.
    kinds
        What to look for.

    Returns
    -------
    tuple of Jump or NonFinite
        In the order of their steps. A jump with its after-effects is one finding; so is the
        spread of NaN from one tensor over the others.

    Raises
    ------
    UnknownNameError
        If `kinds` holds another word.

    Examples
    --------
    >>> for anomaly in find_anomalies("run.zarr"):  # doctest: +SKIP
    ...     print(anomaly.step, anomaly.tensor, anomaly.explain())
    """
    unknown = [kind for kind in kinds if kind not in ANOMALY_KINDS]
    if unknown:
        msg = (
            f"there is no kind of anomaly '{unknown[0]}'; the kinds are {', '.join(ANOMALY_KINDS)}"
        )
        raise UnknownNameError(msg)
    trace = opened(trace)
    found: list[Anomaly] = []
    if "non_finite" in kinds:
        found += find_non_finite(trace)
    if "jump" in kinds or "gradient" in kinds:
        found += (jump for jump in find_jumps(trace, threshold) if jump.kind in kinds)
    return tuple(sorted(found, key=lambda anomaly: anomaly.step))
