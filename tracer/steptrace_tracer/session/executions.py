"""How the steps of one execution are done: at once, or each by itself.

With ``capture="auto"`` it is shown first that the loop with taps leaves what Keras' own leaves.
"""

from __future__ import annotations

import dataclasses
import datetime
import time
from typing import TYPE_CHECKING, Any

from steptrace_schema.format.attributes import Proof
from steptrace_schema.format.disk_limit import DiskLimit
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.proof_times import PROOF_STEPS, ProofTimes
from steptrace_tracer.capture.several_steps import MOST_BYTES, SeveralSteps
from steptrace_tracer.capture.state import StepState
from steptrace_tracer.capture.step_result import StepResult
from steptrace_tracer.session.failure import one_line
from steptrace_tracer.session.fed_batches import FedBatches, can_feed
from steptrace_tracer.session.step_attempt import StepAttempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from steptrace_tracer.capture.proven_step import ProvenStep
    from steptrace_tracer.session.collect_step import StepPosition
    from steptrace_tracer.session.probe_gradients import ProbeGradients
    from steptrace_tracer.session.settings import Settings


class Executions:
    """Finds what does the steps of one execution at once, and keeps it.

    Parameters
    ----------
    settings
        How the recording is made.

    Attributes
    ----------
    step_bytes
        Bytes that a step returns for its record; 0 while they are unknown.
    """

    def __init__(self, settings: Settings) -> None:
        self.step_bytes = 0
        self._settings = settings
        self._found: dict[tuple[int, str, int], AtOnce | None] = {}
        self._refused = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the trace has to say of them."""
        found = (several for several in self._found.values() if isinstance(several, ShownSteps))
        return tuple(filter(None, (self._refused, *(several.refused for several in found))))

    def of(
        self,
        capture: ProvenStep | None,
        iterator: Any,
        count: int,
        original: Callable[[Any], Any],
    ) -> AtOnce | None:
        """Return what does `count` steps of `capture` at once; None where each is done by itself.

        Parameters
        ----------
        capture
            Captures the steps.
        iterator
            Gives their batches.
        count
            Steps of an execution.
        original
            Keras' own function, which does them without the tracer.
        """
        # Ids are asked for with the batch, which Python does not see.
        if capture is None or capture.way == "beside" or self._settings.sample_ids is not None:
            return None
        if not self.step_bytes or count * self.step_bytes > MOST_BYTES:
            return None
        key = (id(capture.traced), repr(iterator.element_spec), count)
        if key not in self._found:
            self._found[key] = self._new(capture, iterator, count, original)
        found = self._found[key]
        return None if isinstance(found, ShownSteps) and found.refused else found

    def parts(
        self,
        results: Iterable[StepResult],
        first: StepPosition,
        gradients: ProbeGradients,
    ) -> Iterator[tuple[StepPosition, StepResult]]:
        """Yield what is recorded at once, and its position, or that of its first step.

        Parameters
        ----------
        results
            What steps gave that were done one after the other, the first at `first`.
        first
            When they began.
        gradients
            Those of the probe, which few of the steps have.
        """
        position = first
        for result in results:
            if self._may_be_together(result, position) and not gradients.is_due(position.step):
                yield position, result
            else:
                yield from ((position.after(n), each) for n, each in enumerate(result.apart()))
            position = position.after(result.steps)

    def _may_be_together(self, result: StepResult, position: StepPosition) -> bool:
        """Whether nothing has to be known, or counted, of each step before the next one."""
        policy, records = self._settings.policy, self._settings.recorded_steps.records
        return (
            policy.total_bytes is None
            and DiskLimit.of(policy) is None
            and not self._settings.live.rules
            and all(records(position.step + n, position.epoch) for n in range(result.steps))
        )

    def _new(
        self, capture: ProvenStep, iterator: Any, count: int, original: Callable[[Any], Any]
    ) -> AtOnce | None:
        spec = iterator.element_spec
        try:
            found = SeveralSteps.of(capture.traced, iterator, count)
        except Exception as error:  # the training is not to suffer from what cannot be compiled
            self._refused = _REFUSED.format(f"their loop cannot be compiled ({one_line(error)})")
            return None
        if found is None or self._settings.capture == "inside":
            return found
        return ShownSteps(found, capture, spec, count, original) if can_feed(spec) else None


class ShownSteps:
    """Does several steps at once, and shows now and then that this does not change the training.

    Parameters
    ----------
    several
        What does them.
    capture
        Captures single steps.
    spec
        The ``element_spec`` of the data set, whose batches can be handed over.
    count
        Steps of an execution.
    original
        Keras' own function, which does them without the tracer.

    Attributes
    ----------
    refused
        Why the steps have to be done one by one; empty where they need not be.
    """

    def __init__(
        self,
        several: SeveralSteps,
        capture: ProvenStep,
        spec: Any,
        count: int,
        original: Callable[[Any], Any],
    ) -> None:
        self._several = several
        self._capture = capture
        self.count = count
        self._original = original
        self._fed = FedBatches(spec)
        self._until_proof = 0
        self._times = ProofTimes()
        self._error: BaseException | None = None
        self.refused = ""

    def run(self, iterator: Any, step: int) -> list[StepResult]:
        """Train on the next batches, as :meth:`SeveralSteps.run` does."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._until_proof > 0 or not self._times.may_prove_again:
            self._until_proof -= 1
            return self._several.run(iterator, step)
        batches = self._take(iterator)
        if len(batches) == self.count:
            begin = time.perf_counter()
            results = self._prove(batches, step)
            if results is not None:
                self._times.took(time.perf_counter() - begin)
                return results
        return [self._run_one(batch, number) for number, batch in enumerate(batches, step)]

    def _take(self, iterator: Any) -> list[Any]:
        """Take the batches of an execution; what reading one raises comes after those before."""
        batches: list[Any] = []
        try:
            while len(batches) < self.count:
                batches.append(next(iterator))
        except (StopIteration, tf.errors.OutOfRangeError):
            pass
        except BaseException as error:
            if not batches:
                raise
            self._error = error
        return batches

    def _run_one(self, batch: Any, step: int) -> StepResult:
        attempt = StepAttempt(self._capture, lambda: self._original(self._fed.alone(batch)))
        try:
            return attempt.run((batch,), {}, step)
        except Exception as error:
            result = attempt.rescued(error)
            self._capture.traced.taps.error = error  # which ends the tracing, not the training
            return StepResult(result, {}, time.time(), 0.0)

    def _prove(self, batches: list[Any], step: int) -> list[StepResult] | None:
        """Do the steps at once, with and without taps from the same state; keep the latter's.

        Returns None, and leaves the state as it was, where the two differ.
        """
        traced = self._capture.traced
        state = StepState(traced.concrete((batches[0],), {}), traced.program)
        if state.obstacle is not None:
            self.refused = _REFUSED.format(state.obstacle)
            return None
        before = state.copy()
        try:
            results = self._several.run(self._feed(batches), step)
            after = state.bits(results[-1].result)
        except Exception as error:
            self.refused = _REFUSED.format(f"together they fail ({one_line(error)})")
            return None
        finally:
            state.put_back(before)
        logs = self._original(self._feed(batches))
        difference = state.first_difference(after, state.bits(logs))
        if difference is not None:
            state.put_back(before)
            self.refused = _REFUSED.format(f"together they change the last bits of '{difference}'")
            return None
        self._until_proof = PROOF_STEPS // self.count
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        note = f"{self.count} steps in one execution"
        proof = Proof(step=step, time=now, way="inside", identical=True, note=note)
        self._capture.proofs = (*self._capture.proofs, proof)
        return [dataclasses.replace(result, result=logs) for result in results]

    def _feed(self, batches: list[Any]) -> Any:
        return [self._fed(batch) for batch in batches][-1]


AtOnce = SeveralSteps | ShownSteps

_REFUSED = "the steps of one execution are done one by one, which takes longer, because {}"
