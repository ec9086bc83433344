"""When it is shown once more that the training stays as it is."""

from __future__ import annotations

import time
from typing import Final

PROOF_STEPS: Final = 1000
"""Recorded steps from one proof to the next, at least."""
TIMES_AS_LONG: Final = 50
"""How many times as long as a proof the training is then left alone: proofs cost 2 % at most."""


class ProofTimes:
    """Keeps proofs apart, so that those of small networks do not slow the training down.

    Until the first proof of this start, the first step tells what one takes: both compile the step.
    """

    def __init__(self) -> None:
        self._ended = self._seconds = 0.0

    def took(self, seconds: float) -> None:
        """Note that a proof, or the first step, has just ended, and took `seconds`."""
        self._ended, self._seconds = time.perf_counter(), seconds

    @property
    def may_prove_again(self) -> bool:
        """Whether the training was left alone for long enough."""
        return time.perf_counter() - self._ended >= TIMES_AS_LONG * self._seconds
