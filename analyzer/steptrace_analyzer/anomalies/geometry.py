"""Angles between gradients and updates, in one pass over both."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.signals import kernels, require
from steptrace_schema.names import STEP

if TYPE_CHECKING:
    import numpy.typing as npt

    from steptrace_analyzer.anomalies.signals import Signals

MOST_BYTES: Final = 4e9
"""Weights and gradients together that are read for angles."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Cosines of one tensor's gradients, one row for each step; NaN where one of both is zero."""

    steps: npt.NDArray[np.int64]
    with_previous: npt.NDArray[np.float64]
    """Cosine of the gradient with that of the step before."""
    with_update: npt.NDArray[np.float64]
    """Cosine of the gradient with the update that followed; downhill is negative."""


def geometries(signals: Signals) -> dict[str, Geometry]:
    """Return the cosines of every kernel's gradients.

    Raises
    ------
    NotJudgedError
        Where gradients or weights have no values, or too many to be read.
    """
    return signals.once("geometry", lambda: _geometries(signals))


def _geometries(signals: Signals) -> dict[str, Geometry]:
    paths = kernels(signals, signals.paths("gradients"))
    require(paths, "the trace holds no values of gradients of kernels")
    size = 2 * sum(signals.tensor("gradients", path).nbytes for path in paths)
    require(size <= MOST_BYTES, f"weights and gradients are {size / 1e9:.1f} GB, too much to read")
    return {path: _geometry(signals, path) for path in paths}


def _geometry(signals: Signals, path: str) -> Geometry:
    steps = signals.steps("gradients")
    gradients, weights = signals.tensor("gradients", path), signals.tensor("weights", path)
    known = set(signals.steps("weights").tolist())
    previous = np.full(len(steps), np.nan)
    update = np.full(len(steps), np.nan)
    last: npt.NDArray[np.float64] | None = None
    size = max(1, int(signals.attributes.shard_steps))
    for start in range(0, len(steps), size):
        block = steps[start : start + size]
        rows = _flat(gradients.sel({STEP: block}))
        wanted = sorted({s for step in block.tolist() for s in (step, step + 1)} & known)
        values = dict(zip(wanted, _flat(weights.sel({STEP: wanted})), strict=True))
        for offset, step in enumerate(block.tolist()):
            row = start + offset
            if last is not None and steps[row - 1] == step - 1:
                previous[row] = _cosine(rows[offset], last)
            if step in values and step + 1 in values:
                update[row] = _cosine(rows[offset], values[step + 1] - values[step])
            last = rows[offset]
    return Geometry(steps, previous, update)


def _flat(values: object) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array.reshape(len(array), math.prod(array.shape[1:]))  # also where there is no row


def _cosine(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    with np.errstate(all="ignore"):
        length = float(np.linalg.norm(left) * np.linalg.norm(right))
        return float(left @ right) / length if np.isfinite(length) and length else float("nan")
