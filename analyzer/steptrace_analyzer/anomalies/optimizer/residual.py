"""One recorded update beside what an optimizer's formula gives."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

ROUNDINGS: Final = 16
"""Parts in 2^23 of what an update was computed from that it may be off by."""
EPS: Final = float(np.finfo(np.float32).eps)
"""The spacing of float32 at 1."""
_FLUSHED: Final = 1e-28  # processors may take numbers near 1e-38 for zero, and divide by 1e-7
_CLIPPED: Final = 4  # times as much where a norm, a long sum, was divided by


@dataclasses.dataclass(frozen=True)
class Residual:
    """One recorded update beside what the formula gives."""

    step: int
    recorded: Array
    """Weight after the step minus weight before it."""
    explained: Array
    """What the formula adds, weight decay included."""
    from_gradient: Array
    """The part that this gradient alone would have made."""
    from_decay: Array
    clipping: float
    """Factor by which clipping scaled the gradient's norm; 1 where it did not."""
    beyond: npt.NDArray[np.bool_]
    """Elements that are off by more than the bound."""
    ulp: float
    """The largest error, in units in the last place of the weight."""
    bound: float
    """The bound at that element."""
    skipped: bool
    """Whether the loss scale, or accumulation, made the optimizer leave the weight alone."""


def residual(
    step: int,
    weight: Array,
    decayed: Array,
    after: Array,
    change: Any,
    factor: float,
    allowed: int,
    more: float,
) -> Residual:
    """Compare a recorded update with what the formula gives from `weight`, `decayed` before."""
    expected = (decayed + change.delta).astype(np.float32)
    error = np.abs(expected.astype(np.float64) - after)
    largest = np.maximum(np.maximum(np.abs(weight), np.abs(after)), np.finfo(np.float32).tiny)
    unit = np.spacing(largest).astype(np.float64)
    roundings = ROUNDINGS * (_CLIPPED if factor < 1 else 1) * EPS
    bound = allowed * unit + roundings * change.size.astype(np.float64) + _FLUSHED + more
    beyond = ~(error <= bound) & np.isfinite(weight) & (np.isfinite(expected) | np.isfinite(after))
    worst = int(np.argmax(np.where(np.isfinite(error), error / bound, -1)))
    ulps = error / unit
    return Residual(
        step=step,
        recorded=after - weight,
        explained=expected - weight,
        from_gradient=np.asarray(change.alone, dtype=np.float32),
        from_decay=decayed - weight,
        clipping=factor,
        beyond=beyond,
        ulp=float(ulps.reshape(-1)[worst]),
        bound=float((bound / unit).reshape(-1)[worst]),
        skipped=False,
    )


def left_alone(step: int, weight: Array, after: Array) -> Residual:
    """Return an update that the optimizer has left out."""
    zero = np.zeros_like(weight)
    beyond = (after != weight) & np.isfinite(weight)
    unit = np.spacing(np.maximum(np.abs(weight), np.finfo(np.float32).tiny))
    ulp = float((np.abs(after - weight) / unit).max())
    return Residual(step, after - weight, zero, zero, zero, 1.0, beyond, ulp, 0.0, skipped=True)
