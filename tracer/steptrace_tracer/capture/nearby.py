"""Comparisons of a step with and without taps from other states than the training's.

A small step may have equal bits by chance, so that one state proves little.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from steptrace_tracer._tensorflow import tf

if TYPE_CHECKING:
    from collections.abc import Callable

    from steptrace_tracer.capture.state import StepState

TRIALS: Final = 24
TRIAL_SECONDS: Final = 0.5
TRIAL_BYTES: Final = 256 * 2**20
"""How often, how long at most, and of how large a state, the first step is compared from other
states than its own. Of millions of numbers some would differ, and what steps return takes memory.
"""


def difference_nearby(
    state: StepState,
    before: list[Any],
    traced: Callable[[], Any],
    original: Callable[[], Any],
) -> str | None:
    """Compare both steps from states around one: a small step may have equal bits by chance.

    Parameters
    ----------
    state
        The variables that the step may change.
    before
        Their values, around which the others are.
    traced, original
        Do the step with and without taps, and return what it returns.
    """
    if state.nbytes > TRIAL_BYTES:
        return None
    end = time.perf_counter() + TRIAL_SECONDS
    for trial in range(TRIALS):
        state.put_near(before, trial)
        try:
            after = state.bits(traced())
            state.put_near(before, trial)
            reached = original()
        except tf.errors.OpError:  # such as a check of the user's, which tells nothing here
            return None
        difference = state.first_difference(after, state.bits(reached))
        if difference is not None or time.perf_counter() > end:
            return difference
    return None
