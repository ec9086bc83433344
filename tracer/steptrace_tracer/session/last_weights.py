"""The weights that the last step left, which something else may replace before the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from steptrace_tracer.capture.traced_step import TracedStep

_REPLACED = (
    "when the training ended, {} of {} weights were no longer those that the last step left: "
    "something else replaced them, such as a callback or the optimizer's moving averages"
)


class LastWeights:
    """Keeps the weights after a step, the last one unless more follow.

    Attributes
    ----------
    values
        ``weights/path`` to tensor.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._step = -1

    def keep(self, traced: TracedStep, step: int) -> None:
        """Keep the present weights as those before `step`, if none are kept for it yet.

        They are copied only if another step assigns to them.
        """
        if step != self._step:
            self.values, self._step = traced.current_weights(), step

    def replaced(self, traced: TracedStep | None) -> tuple[str, ...]:
        """Return what is to be said of a model that has other weights by now, nothing of others."""
        now = traced.current_weights() if traced is not None else {}
        others = [
            key
            for key, value in self.values.items()
            if key in now and np.asarray(now[key]).tobytes() != np.asarray(value).tobytes()
        ]
        return (_REPLACED.format(len(others), len(self.values)),) if others else ()
