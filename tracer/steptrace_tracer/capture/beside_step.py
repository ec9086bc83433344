"""Recording beside the training: the model's own step runs untouched, and another one is observed.

The observed step is the model's own Python code, traced once more with its taps. It runs first, on
the same batch, weights and random states; then every variable that it changed is put back, and the
step that TensorFlow compiled for the training runs as it would without the tracer. What is recorded
is thus equal to what the training computed up to rounding, and the training is not touched at all.
"""

from __future__ import annotations

import functools
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.graph_statistics import described_in_graph
from steptrace_tracer.capture.metric_taps import metric_taps
from steptrace_tracer.capture.optimizer_state import scaled_counts
from steptrace_tracer.capture.rebinding import rebound
from steptrace_tracer.capture.state import StepState
from steptrace_tracer.capture.step_result import StepResult
from steptrace_tracer.capture.traced_step import TracedStep

if TYPE_CHECKING:
    from collections.abc import Callable


class BesideStep(TracedStep):
    """Observes a copy of each step, and lets the training's own step run untouched.

    It takes the same arguments as :class:`TracedStep`.

    Parameters
    ----------
    level
        A step with taps whose function is the one to observe, since it has drawn as many random
        numbers as the training's; None to compile one.
    """

    def __init__(self, *args: Any, level: TracedStep | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if level is not None:
            vars(self).update(vars(level))
        self._states: dict[int, StepState] = {}
        self.readings.follows = False  # the observed step need not change the weights
        self._read_weights = tf.function(
            functools.partial(self.readings.weights, updates=True), autograph=False
        )

    def run(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], original: Callable[[], Any]
    ) -> StepResult:
        """Observe the step, put every variable back, and train on the batch.

        Parameters
        ----------
        args, kwargs
            The arguments of the program's step.
        original
            Does the step as it is done without the tracer.
        """
        self.prepare(args, kwargs)
        return self.trained(self._observe(args, kwargs), original)

    def trained(self, tensors: dict[str, Any], original: Callable[[], Any]) -> StepResult:
        """Train on the batch.

        Parameters
        ----------
        tensors
            What was observed of the step.
        original
            Does the step as it is done without the tracer.
        """
        before, counts = self._read_weights(), scaled_counts(self.program.optimizers)
        wall_time, start = time.time(), time.perf_counter()
        result = original()
        duration = time.perf_counter() - start
        after = self._read_weights() if before else {}
        tensors |= described_in_graph(self.readings.updates(before, after), self.policy)
        # The training's own metrics, rather than those of the observed step.
        tensors |= {k: v for k, v in metric_taps(self.program.logs(result)).items() if k in tensors}
        tensors |= self.readings.skipped(counts, tensors)
        return StepResult(result, tensors, wall_time, duration)

    def _observe(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        function = self.concrete(args, kwargs)
        if id(function) not in self._states:
            self._states[id(function)] = StepState(function, self.program)
        state = self._states[id(function)]
        before = state.copy()
        try:
            tensors: dict[str, Any] = self._call(args, kwargs)[1]
        finally:
            with self.progress.putting_back():
                state.put_back(before)
        return tensors

    def _observed(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        if not self.program.applies_last:
            return super()._observed(*args, **kwargs)
        with ExitStack() as stack:
            # Nothing reads the weights any more once Keras' own step applies the gradients.
            stack.enter_context(rebound(self.program.optimizers[0], "apply", _nothing))
            return super()._observed(*args, **kwargs)


def _nothing(_: Any) -> Callable[..., None]:
    def apply(*_: Any, **__: Any) -> None:
        """Leave the weights as they are."""

    return apply
