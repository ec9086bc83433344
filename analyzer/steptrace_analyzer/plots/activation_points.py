"""Inputs and outputs of an activation function as points."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class ActivationPoints:
    """The values of one step; all arrays have dims (point,) and are in input order.

    Parameters
    ----------
    step
        The step whose weights the probe went through.
    before
        Inputs of the activation function.
    after
        Its outputs.
    sample
        Which input of the probe the value belongs to.
    position
        Where among all values of its sample, as a share from 0 to 1.
    unit
        Which output unit (last axis) it belongs to.
    total
        How many values the step has.
    non_finite
        How many of them are not finite, before or after; they have no point.
    """

    step: int
    before: npt.NDArray[np.float64]
    after: npt.NDArray[np.float64]
    sample: npt.NDArray[np.intp]
    position: npt.NDArray[np.float64]
    unit: npt.NDArray[np.intp]
    total: int
    non_finite: int


def activation_points(
    before: npt.NDArray[np.float64], after: npt.NDArray[np.float64], step: int, most: int
) -> ActivationPoints:
    """Return inputs and outputs of an activation function as points, at most `most`, evenly taken.

    Parameters
    ----------
    before, after
        Dims (sample, ...), the last one the unit.
    step, most
        The step that they are of, and how many points there may be.
    """
    samples = before.shape[0]
    per_sample = before.size // samples if samples else 0
    sample, place = np.divmod(np.arange(before.size), max(per_sample, 1))
    flat_before, flat_after = before.reshape(-1), after.reshape(-1)
    known = np.flatnonzero(np.isfinite(flat_before) & np.isfinite(flat_after))
    kept = known
    if known.size > most:
        kept = known[np.linspace(0, known.size - 1, most).astype(np.intp)]
    return ActivationPoints(
        step=step,
        before=flat_before[kept],
        after=flat_after[kept],
        sample=sample[kept],
        position=place[kept] / max(per_sample - 1, 1),
        unit=place[kept] % max(before.shape[-1] if before.ndim > 1 else 1, 1),
        total=before.size,
        non_finite=int(before.size - known.size),
    )
