"""Which steps of a run are worth a figure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from steptrace_analyzer.anomalies import NonFinite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steptrace_analyzer.anomalies import Anomaly


def by_size(anomalies: Sequence[Anomaly]) -> list[Anomaly]:
    """Return anomalies, the biggest first: non-finite values, then jumps by their z-score."""
    return sorted(anomalies, key=_size, reverse=True)


def key_steps(recorded: Sequence[int], anomalies: Sequence[Anomaly], most: int) -> list[int]:
    """Return the recorded steps that tell a run's story: first, last, and those of anomalies.

    Parameters
    ----------
    recorded
        Ascending steps to choose from.
    anomalies
        What was found in the run.
    most
        How many steps at most, two or more. What the anomalies leave free is spread evenly.

    Returns
    -------
    list of int
        Ascending.

    Examples
    --------
    >>> key_steps(range(101), [], 3)
    [0, 50, 100]
    """
    if len(recorded) <= most:
        return list(recorded)
    chosen = dict.fromkeys((recorded[0], recorded[-1]))
    for anomaly in by_size(anomalies):
        if anomaly.step in recorded and len(chosen) < most:
            chosen[anomaly.step] = None
    for place in np.linspace(0, len(recorded) - 1, most).round().astype(int):
        if len(chosen) < most:
            chosen[recorded[place]] = None
    return sorted(chosen)


def _size(anomaly: Anomaly) -> float:
    return math.inf if isinstance(anomaly, NonFinite) else anomaly.tensors[0].z
