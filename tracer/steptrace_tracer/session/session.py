"""One recording: it begins, runs steps with their taps, and ends."""

from __future__ import annotations

import atexit
import dataclasses
import os
import time
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from steptrace_schema.errors import DiskLimitError, TraceError
from steptrace_schema.format.disk_limit import DiskLimit
from steptrace_schema.human import human_bytes
from steptrace_schema.moving.resume import reopen
from steptrace_tracer.capture.batch_taps import recorded_bytes, tap_bytes
from steptrace_tracer.capture.names import Names
from steptrace_tracer.record.pending_step import Collected, PendingStep
from steptrace_tracer.record.recording import Recording
from steptrace_tracer.session.captures import Captures
from steptrace_tracer.session.closing_report import finish
from steptrace_tracer.session.collect_step import (
    collect_step,
    validation_arrays,
    with_precision,
)
from steptrace_tracer.session.executions import Executions
from steptrace_tracer.session.failure import complain, reason_text, why_ended
from steptrace_tracer.session.incident_watch import IncidentWatch, watch_for
from steptrace_tracer.session.last_weights import LastWeights
from steptrace_tracer.session.logged_values import LoggedValues
from steptrace_tracer.session.phases import Phases
from steptrace_tracer.session.probe_gradients import ProbeGradients
from steptrace_tracer.session.provenance import describe_run
from steptrace_tracer.session.replaying import REPLAYER
from steptrace_tracer.session.sampling import with_sample_count
from steptrace_tracer.session.step_attempt import StepAttempt
from steptrace_tracer.session.time_spent import TimeSpent
from steptrace_tracer.session.told import Told

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from steptrace_schema.moving.resume import Continuation
    from steptrace_schema.names import Status
    from steptrace_tracer.capture.program import Program
    from steptrace_tracer.capture.proven_step import ProvenStep
    from steptrace_tracer.capture.step_result import StepResult
    from steptrace_tracer.capture.traced_step import TracedStep
    from steptrace_tracer.session.collect_step import StepPosition
    from steptrace_tracer.session.executions import AtOnce
    from steptrace_tracer.session.moment import Moment
    from steptrace_tracer.session.settings import Settings

NOT_ENDED = "the program ended before the training did"
"""The reason in a trace that was closed because nothing else closed it."""


class Session:
    """Records steps until it ends, for whatever reason.

    Parameters
    ----------
    settings
        How the recording is made.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.active = True
        self._capture: ProvenStep | None = None
        self._captures: Captures | None = None
        self._process = os.getpid()
        self._recording: Recording | None = None
        self._before: Continuation | None = None
        self.last_weights = LastWeights()
        self.left_at: int | None = None  # where a fit has ended, while callbacks are left to run
        self._phases: Phases | None = None
        self.told = Told()
        self._logged = LoggedValues()
        self._watch: IncidentWatch | None = None
        self._executions = Executions(settings)
        self._probe_gradients = ProbeGradients(settings.policy, settings.recorded_steps.records)
        self._spent = TimeSpent()
        self.ending = ExitStack()  # what is done when the recording ends, however it does
        atexit.register(self.abandon)

    def begin(self, program: Program, step: int) -> None:
        """Begin the trace of `program` with step number `step`, or resume the one there is."""
        settings, policy = self.settings, self.settings.policy
        before = reopen(settings.path, step, DiskLimit.of(policy)) if settings.resume else None
        earlier = None if before is None else before.attributes.policy
        policy = with_sample_count(policy, program.models, earlier)
        self.settings = dataclasses.replace(settings, policy=policy)
        names = Names.of(*program.models)
        names = names if before is None else names.as_in(before.attributes.layers, program.models)
        attributes = describe_run(program, names, policy, settings.worker, before)
        captures = Captures(self.settings, names, before)
        self._phases = Phases(names, attributes, program, step)
        settings.recorded_steps.begin(step, attributes.intervals)
        news = self._phases.news() | self.told.news(settings.recorded_steps.news())
        attributes = attributes.model_copy(update=news)
        arrays = () if before is None else before.arrays
        self._recording = Recording(settings.path, attributes, settings.journal_limit, arrays)
        self._before = before
        self._capture, self._captures = captures.of(program), captures
        self._watch = watch_for(settings, names, policy, before)
        self._logged.begin(step)

    def turn_to(self, program: Program, step: int | None = None) -> None:
        """Have the next step be one of `program`, with the same models; of a fit from `step` on."""
        if self._captures is not None:
            self._capture = self._captures.of(program)
        if self._phases is not None and step is not None:
            self._phases.begin(program, step)

    @property
    def traced(self) -> TracedStep | None:
        """The step with its taps; None before and after."""
        return self._capture.traced if self._capture is not None else None

    def wants(self, first: int, epoch: int, count: int = 1) -> bool:
        """Whether any of `count` steps from number `first` on has to run with its taps.

        The first one always does: it shows whether all have to, and how large a record is.
        """
        traced, steps = self.traced, self.settings.recorded_steps
        return steps.turn(first, epoch, count, traced, self._recording) or (
            traced is None or traced.traces == 0 or traced.draws_random_numbers
        )

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        position: StepPosition,
        original: Callable[[], Any],
    ) -> Any:
        """Do one step with the arguments of the program's, and record it where the policy wants it.

        `original` does the same step without the tracer, for when tracing fails.
        """
        capture = self._capture
        if capture is None:
            return original()
        if (replayer := REPLAYER.present()) is not None:
            return replayer.step(capture, args, kwargs, original)
        begin, moment, traced = time.perf_counter(), None, capture.traced
        attempt = StepAttempt(capture, original)
        try:
            if self._watch is not None:
                moment = self._watch.before(position.step, traced.program, args, kwargs)
            traced.prepare_probe(args, kwargs)
            self._probe_gradients.take(traced, position)
            result = attempt.run(args, kwargs, position.step)
        except Exception as error:
            return self._rescued(attempt, error, moment)
        except BaseException as error:
            self._keep_crashed(moment, error)
            self.end("incomplete", why_ended(error))
            raise
        ids = partial(i, *args, **kwargs) if (i := self.settings.sample_ids) else None
        self._record(capture, [result], position, begin, ids, moment)
        return result.result

    def several(self, iterator: Any, count: int, original: Callable[[Any], Any]) -> AtOnce | None:
        """Return what does `count` steps in one execution; None where each is done by itself."""
        return self._executions.of(self._capture, iterator, count, original)

    def run_several(
        self, several: AtOnce, iterator: Any, position: StepPosition
    ) -> list[StepResult]:
        """Do several steps in one execution, the first at `position`, and record them."""
        begin = time.perf_counter()
        self._probe_gradients.take(self.traced, position, several.count)
        try:
            results = several.run(iterator, position.step)
        except BaseException as error:
            self.end("incomplete", why_ended(error))
            raise
        if self._capture is not None:
            self._record(self._capture, results, position, begin)
        return results

    def _record(
        self,
        capture: ProvenStep,
        results: list[StepResult],
        first: StepPosition,
        begin: float,
        ids: Callable[[], Any] | None = None,
        moment: Moment | None = None,
    ) -> None:
        """Record the steps that the policy wants, which ran since the time `begin`."""
        try:
            self.told.note_missing_names(self.settings.path)
            if capture.traced.taps.error is not None:
                raise capture.traced.taps.error
            for position, result in self._executions.parts(results, first, self._probe_gradients):
                if self._recording is not None and not self._recording.record_bytes:
                    self._recording.record_bytes = recorded_bytes(result.tensors)
                    self._executions.step_bytes = tap_bytes(result.tensors)
                if self.settings.recorded_steps.records(position.step, position.epoch):
                    self._hand_over(capture, result, position, ids and ids(), moment)
        except Exception as error:
            self.fail(error)
        seconds = sum(result.duration * result.steps for result in results)
        steps = sum(result.steps for result in results)
        self._spent.add(steps, seconds, time.perf_counter() - begin - seconds)

    def keep_weights(self, step: int) -> None:
        """Take the present weights for those before `step`, the last ones unless more follow."""
        if self.traced is not None:
            self.last_weights.keep(self.traced, step)

    def validated(self, step: int, values: Mapping[str, Any]) -> None:
        """Record loss and metrics on the validation data, of the weights before `step`."""
        arrays = validation_arrays(values, self.settings.policy)
        if self.traced is None or not arrays:
            return
        try:
            self._put(step, lambda: Collected(arrays))
        except Exception as error:
            self.fail(error)

    def log(self, step: int | None, name: str, value: npt.NDArray[Any]) -> None:
        """Keep a value logged at `step`, at None for the first one; the last of a name counts."""
        self._logged.log(step, name, value, self.settings.policy, self._put_logged)

    def mark(self, step: int | None) -> None:
        """Keep a step as a whole, because the training marks it."""
        if self._watch is not None and step is not None:
            self._watch.mark(step, self._put)

    def _put_logged(self) -> None:
        if self.traced is not None and (found := self._logged.take()) is not None:
            step, arrays = found
            self._put(step, lambda: Collected(arrays))

    def complete(self, step: int) -> None:
        """Record the last weights, which are those before step number `step`, and end."""
        if not self.active:
            return
        try:
            self._put_logged()
            last = self.last_weights.collect(self.traced, step, self.settings.policy)
            if last is not None:
                self._put(step, lambda: last)
        except Exception as error:
            self.fail(error)
            return
        self.end("complete", None)

    def fail(self, error: Exception) -> None:
        """Stop because the tracer failed; what then happens is up to `on_error`."""
        reason = reason_text(self.settings.path, error)
        is_limit = isinstance(error, DiskLimitError)
        self._finish("incomplete", reason if is_limit else f"tracing failed: {reason}")
        complain(self.settings, error)

    def abandon(self) -> None:
        """End a recording whose training did not reach its end.

        The end of a process that the training forked is not the training's.
        """
        if os.getpid() == self._process:
            if self.left_at is not None:  # and a callback behind the tracer's failed
                self.complete(self.left_at)
            self.end("incomplete", NOT_ENDED)

    def end(self, status: Status, reason: str | None) -> None:
        """Finish the trace, and say so if that failed."""
        if (error := self._finish(status, reason)) is not None:
            complain(self.settings, error)

    def _rescued(self, attempt: StepAttempt, error: Exception, moment: Moment | None) -> Any:
        """Do the step that failed as it is done without the tracer, where it can be."""
        try:
            result = attempt.rescued(error)
        except Exception as own:
            self._keep_crashed(moment, own)
            self.end("incomplete", attempt.reason(own))
            raise
        self.fail(error)
        return result

    def _keep_crashed(self, moment: Moment | None, error: BaseException) -> None:
        """Keep the step that raised an exception, which ends the recording."""
        with suppress(TraceError):  # which closing the recording says again
            if self._watch is not None:
                self._watch.crashed(moment, error, self._put)

    def _hand_over(
        self,
        capture: ProvenStep,
        result: StepResult,
        position: StepPosition,
        ids: Any,
        moment: Moment | None,
    ) -> None:
        traced, policy = capture.traced, self.settings.policy
        tensors = result.tensors | self._probe_gradients.of(position.step, traced.probe)
        taps, missing = traced.taps, (*traced.missing(), *self._probe_gradients.missing)
        attributes, said = self._captures.news(capture) if self._captures is not None else ({}, ())
        attributes |= self._phases.news(taps) if self._phases is not None else {}
        attributes |= self.told.news(self.settings.recorded_steps.news())
        notes, watch = (*self.told.notes, *self._executions.notes, *said), self._watch

        def collect() -> Collected:
            collected = collect_step(tensors, result, position, taps, missing, ids, policy, notes)
            if watch is not None:
                draws = traced.draws_random_numbers
                collected = watch.judged(collected, position.step, moment, draws=draws)
            return self.told.with_news(collected, attributes)

        self._put(position.step, collect)

    def _put(self, step: int, collect: Callable[[], Collected]) -> None:
        """Hand arrays over, as exactly as the policy wants them, while its budget lasts."""
        recording, policy = self._recording, self.settings.policy
        if recording is None:
            return
        if policy.total_bytes is not None and recording.raw_bytes >= policy.total_bytes:
            budget = human_bytes(policy.total_bytes)
            self.end("incomplete", f"the policy's budget of {budget} was used up at step {step}")
            return
        recording.put(self._pending(step, lambda: with_precision(collect(), policy)))

    def _pending(self, step: int, collect: Callable[[], Collected]) -> PendingStep:
        """Return a step to hand over; the first one resumes a trace that is there."""
        before, self._before = self._before, None
        return PendingStep(step, collect).resuming(before, self.settings.policy)

    def _finish(self, status: Status, reason: str | None) -> TraceError | None:
        """Finish the trace; return what went wrong."""
        if self._recording is not None and (found := self._logged.take()) is not None:
            step, logged = found
            with suppress(TraceError):  # which closing the recording says again
                self._recording.put(self._pending(step, lambda: Collected(logged)))
        recording, self._recording, self._capture = self._recording, None, None
        self.active = False
        self.ending.close()
        atexit.unregister(self.abandon)
        if recording is None and self.told.notes:  # which were warned of
            return None
        return finish(recording, status, reason, self.settings, self._spent)
