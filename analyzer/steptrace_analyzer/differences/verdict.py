"""What a search for differences comes to, in one word."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steptrace_analyzer.differences.divergence_result import StepDifference, Verdict

ROUNDING: Final = 256
"""Units in the last place of a tensor's largest magnitude that rounding alone is taken to make."""

_DATA: Final = frozenset({"batch", "weights", "optimizer"})
"""Phases in which nothing is computed that could be rounded in another way."""


@dataclasses.dataclass
class Obstacles:
    """What keeps a comparison from being complete.

    Attributes
    ----------
    damaged
        Whether something could not be decoded.
    beyond_values
        Whether a tensor has other digests, and no values to hold against a tolerance.
    reshaped
        Whether a tensor has another shape.
    other_layers
        Whether one model has a layer that the other has not.
    other_model
        Whether the two models have no layer in common.
    weak_weights
        Whether no more than the statistics of weights were compared.
    """

    damaged: bool = False
    beyond_values: bool = False
    reshaped: bool = False
    other_layers: bool = False
    other_model: bool = False
    weak_weights: bool = False

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return any(dataclasses.astuple(self))


def verdict_of(
    differing: Sequence[StepDifference], obstacles: Obstacles, *, compared: bool, has_steps: bool
) -> Verdict:
    """Return the verdict on what was found.

    Parameters
    ----------
    differing
        What differs at the first step at which anything does.
    obstacles
        What kept the comparison from being complete.
    compared, has_steps
        Whether anything was compared, and whether both runs have a step in common.
    """
    if obstacles.other_model:
        return "inconclusive"
    if differing:
        return "rounding-sized" if _is_rounding(differing) else "differs"
    return "equal" if compared and has_steps and not obstacles.any else "inconclusive"


def _is_rounding(differing: Sequence[StepDifference]) -> bool:
    """Whether rounding may have made all that differs at a step."""
    if differing[0].place.phase in _DATA:
        return False
    return all(
        found.distance is not None
        and found.distance.in_last_place is not None
        and found.distance.in_last_place <= ROUNDING
        and found.distance.non_finite_a == found.distance.non_finite_b
        for found in differing
    )
