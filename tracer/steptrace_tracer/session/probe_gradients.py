"""At which steps the probe is differentiated, and what that gives."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.format.attributes import Missing
from steptrace_schema.names import X
from steptrace_tracer.capture.saliency import Saliency
from steptrace_tracer.session.failure import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.capture.probe import Probe
    from steptrace_tracer.capture.traced_step import TracedStep
    from steptrace_tracer.session.collect_step import StepPosition

_SHARE: Final = 0.01
_SECONDS: Final = 0.3
"""The most processor time of a process that is spent where the policy leaves it to the tracer how
often: this share of it, and so many seconds more."""
_TO_COMPILE: Final = 10
"""How many times as long as one pass it takes to compile it, about."""


class _Allowance:
    """What all recordings of a process together may still spend, as in a loop of many fits."""

    def __init__(self) -> None:
        self.spent = 0.0

    def has(self, seconds: float) -> bool:
        return self.spent + seconds <= _SECONDS + _SHARE * time.process_time()


_allowance = _Allowance()


class ProbeGradients:
    """Differentiates the probe before the recorded steps whose turn it is.

    Parameters
    ----------
    policy
        What is recorded.
    records
        Whether a step of an epoch is recorded.

    Attributes
    ----------
    missing
        What it has no data for, with reasons.
    """

    def __init__(self, policy: Policy, records: Callable[[int, int], bool]) -> None:
        self._policy = policy
        self._records = records
        self._is_wanted = {"probe", "probe_gradients"} <= {*policy.kinds}
        self._row = self._due = 0
        self._cost = 0.0  # processor seconds of a pass, as far as it is known
        self._saliency: Saliency | None = None
        self._has_begun = self._has_inputs = False
        self._found: tuple[int, dict[str, Any]] | None = None
        self.missing: tuple[Missing, ...] = ()

    def take(self, traced: TracedStep | None, first: StepPosition, count: int = 1) -> None:
        """Differentiate with the present weights, where it is the turn of the step that follows.

        Parameters
        ----------
        traced
            What does the step, with its probe; None before the first step.
        first
            Its position.
        count
            How many steps follow, from it on, before this is asked again.
        """
        steps = range(first.step, first.step + count)
        recorded = [self._records(step, first.epoch) for step in steps]
        row, self._row = self._row, self._row + sum(recorded)
        probe = traced.probe if traced is not None else None
        if not (self._is_wanted and recorded[0] and row >= self._due) or probe is None:
            return
        if self._saliency is None or self._saliency.probe is not probe:
            self._saliency = Saliency(probe, self._policy)
        if not self._may_run(self._saliency):
            return
        self._due = self._next(row, self._saliency)
        begin = time.process_time()
        try:
            self._found = first.step, self._saliency()
            self.missing = self._saliency.missing()
        except Exception as error:  # one view less, which the trace says
            self._is_wanted = False
            reason = f"the probe cannot be differentiated ({one_line(error)})"
            self.missing = (Missing(kind="probe_gradients", path=X, reason=reason),)
        spent = time.process_time() - begin
        self._cost = 0.0 if self._saliency.is_compiled else spent  # not that of compiling
        _allowance.spent += spent

    def is_due(self, step: int) -> bool:
        """Whether :meth:`of` may return more for a step than for those that follow it."""
        return not self._has_begun or (self._found is not None and self._found[0] == step)

    def of(self, step: int, probe: Probe | None) -> dict[str, Any]:
        """Return what was taken before `step`, ``kind/path`` to tensor.

        The first time the probe's inputs are with it, which are those of all steps.
        """
        self._has_begun = True
        tensors: dict[str, Any] = {}
        if probe is not None and not self._has_inputs:
            tensors, self._has_inputs = probe.inputs(), True
        if self._found is not None and self._found[0] == step:
            tensors = tensors | self._found[1]
        return tensors

    def _next(self, row: int, saliency: Saliency) -> int:
        """Return the number of the next recorded step whose turn it is."""
        if self._policy.probe_gradients_every == "auto" and not saliency.is_compiled:
            return max(4, 4 * row)  # a pass takes long, so that the few are spread out
        return self._policy.next_probe_gradients(row + 1)

    def _may_run(self, saliency: Saliency) -> bool:
        """Whether there is time for a pass, which is compiled when there is time for that."""
        if self._policy.probe_gradients_every != "auto":
            return True
        if self._cost and not saliency.is_compiled and _allowance.has(_TO_COMPILE * self._cost):
            saliency.compile()
            return True
        return _allowance.has(self._cost)
