"""The weights that the last step left, which something else may replace before the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steptrace_tracer.capture.graph_statistics import describes_in_graph
from steptrace_tracer.record.pending_step import Collected
from steptrace_tracer.session.collect_step import to_arrays
from steptrace_tracer.session.final_weights import final_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.capture.traced_step import TracedStep
    from steptrace_tracer.record.pending_step import KeptFinal


class LastWeights:
    """Keeps the weights after a step, the last one unless more follow."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._step = -1
        self._final: KeptFinal | None = None

    def keep(self, traced: TracedStep, step: int) -> None:
        """Keep the present weights as those before `step`, if none are kept for it yet.

        They are copied only if another step assigns to them.
        """
        if step != self._step:
            self._values, self._step = traced.current_weights(), step
            self._final = None

    def end(self, traced: TracedStep, step: int, callbacks: Sequence[Any], policy: Policy) -> None:
        """Keep the weights that the model has when a fit, with its `callbacks`, has ended."""
        if self._values:
            self._final = final_weights(self._values, traced, step, callbacks, policy)

    def collect(self, traced: TracedStep | None, step: int, policy: Policy) -> Collected | None:
        """Return what is recorded of the weights before `step`, the last ones."""
        if not self._values:
            return None
        final = self._final
        if final is None and traced is not None:
            final = final_weights(self._values, traced, step, (), policy)
            # Outside of fit it is not known where the training has ended.
            final = final if final.said.changed else None
        notes = () if final is None else final.notes
        arrays = to_arrays(self._values)
        described = bool(policy.statistics_only) and describes_in_graph()
        return Collected(arrays, notes=notes, final=final, described=described)
