"""One recording in the making: steps that run with their taps, and what a failure does."""

from __future__ import annotations

import atexit
import dataclasses
import datetime
import errno
import math
import os
import time
import uuid
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from steptrace_schema.errors import DiskLimitError, TraceError
from steptrace_schema.format.attributes import TraceAttributes, Worker
from steptrace_schema.format.disk_limit import DiskLimit
from steptrace_schema.format.layout import safe_path, split_key
from steptrace_schema.human import human_bytes
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.where import journal_path
from steptrace_schema.moving.resume import reopen
from steptrace_schema.names import (
    RECORDED_ID,
    SAMPLE_DIGEST,
    SAMPLE_ID,
    SAMPLE_LOSS,
    SAMPLE_WEIGHT,
    Status,
    X,
)
from steptrace_schema.version import PACKAGE_VERSION
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.names import Names
from steptrace_tracer.capture.tapping import NOT_SAMPLES, as_missing
from steptrace_tracer.capture.traced_step import BATCH_INPUT, ROWS, StepResult, TracedStep
from steptrace_tracer.record.declare import has_samples, specify
from steptrace_tracer.record.precision import rounded
from steptrace_tracer.record.recording import Collected, PendingStep, Recording, scalar
from steptrace_tracer.record.sample_digests import sample_digests
from steptrace_tracer.record.step_budget import beyond_budget
from steptrace_tracer.session import provenance
from steptrace_tracer.session.closing_report import ClosingProgress, describe, report
from steptrace_tracer.session.sampling import with_samples

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from steptrace_schema.format.policy import Policy
    from steptrace_schema.moving.resume import Continuation
    from steptrace_schema.storage.location import Location
    from steptrace_tracer.capture.program import Program

OnError = Literal["warn", "raise"]

NOT_ENDED = "the program ended before the training did"
"""The reason in a trace that was closed because nothing else closed it."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a recording is made, as the user asked for it.

    Attributes
    ----------
    path
        Where the trace goes.
    policy
        What is recorded.
    probe
        Inputs of the probe; None for the first samples of the first batch.
    on_error
        What a failure of the tracer does to the training.
    progress
        Whether to show progress and a summary at the end.
    journal_limit
        Bytes that may wait on local disk.
    resume
        Whether to go on with a trace that is there.
    worker
        Which process of a distributed job this is, if it is one.
    sample_ids
        Returns the ids of a batch's samples, from the arguments of the step.
    """

    path: Location
    policy: Policy
    probe: Any
    on_error: OnError
    progress: bool
    journal_limit: int
    resume: bool
    worker: Worker | None
    sample_ids: Callable[..., Any] | None


@dataclasses.dataclass(frozen=True)
class Moment:
    """When a step runs: its number, and where in the epochs it stands."""

    step: int
    epoch: int
    batch: int


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
        self.traced: TracedStep | None = None
        self._process = os.getpid()
        self._recording: Recording | None = None
        self._before: Continuation | None = None
        self._last_weights: dict[str, Any] = {}
        self._began = False
        self._logged: dict[str, npt.NDArray[Any]] = {}
        self._logged_at: int | None = None
        self._logged_as: dict[str, npt.NDArray[Any]] = {}
        self._handing_over = 0.0
        self._step_seconds = 0.0
        atexit.register(self.abandon)

    def begin(self, program: Program, step: int) -> None:
        """Begin the trace of `program` with step number `step`, or go on with the one there is."""
        settings = self.settings
        limit = DiskLimit.of(settings.policy)
        before = reopen(settings.path, step, limit) if settings.resume else None
        policy = settings.policy
        if before is not None and policy.samples == "auto":
            policy = policy.model_copy(update={"samples": before.attributes.policy.samples})
        policy = with_samples(policy, program.models)
        self.settings = dataclasses.replace(settings, policy=policy)
        probe = settings.probe
        if probe is None and before is not None and list(before.probe) == [X]:
            probe = before.probe[X]
        names = Names.of(*program.models)
        if before is not None:
            names = names.as_in(before.attributes.layers, program.models)
        traced = TracedStep(program, names, policy, probe)
        fresh = TraceAttributes(
            run_id=uuid.uuid4().hex,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            producer=f"steptrace {PACKAGE_VERSION}",
            policy=policy,
            model=provenance.describe_models(program.models),
            layers=provenance.describe_layers(program.models, traced.names),
            optimizer=provenance.describe_optimizer(program.optimizers[0]),
            loss=provenance.describe_loss(program.models[0]),
            worker=settings.worker,
            environment=provenance.describe_environment(),
        )
        if before is None:
            self._recording = Recording(settings.path, fresh, settings.journal_limit)
        else:
            latest = ("producer", "policy", "model", "layers", "optimizer", "loss", "environment")
            attributes = before.attributes.model_copy(
                update={name: getattr(fresh, name) for name in latest}
            )
            self._recording = Recording(
                settings.path, attributes, settings.journal_limit, before.arrays
            )
        self._before = before
        self.traced = traced
        if self._logged_at is None:
            self._logged_at = step

    def wants(self, first: int, epoch: int, count: int = 1) -> bool:
        """Whether any of `count` steps from number `first` on has to run with its taps.

        The first one always does: it shows whether all have to, and how large a record is.
        """
        traced = self.traced
        return (traced is None or traced.traces == 0 or traced.draws) or any(
            self.settings.policy.records_step(step, epoch) for step in range(first, first + count)
        )

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        moment: Moment,
        original: Callable[[], Any],
    ) -> Any:
        """Do one step, and record it where the policy wants it.

        Parameters
        ----------
        args, kwargs
            The arguments of the program's step.
        moment
            When it runs.
        original
            Does the same step without the tracer, for when tracing fails.
        """
        traced = self.traced
        if traced is None:
            return original()
        begin = time.perf_counter()
        # A compiled step that fails has not assigned anything; an eager one may have.
        before = traced.program.update_count() if traced.program.eager else None
        try:
            result = traced.run(args, kwargs)
        except Exception as error:
            if before is not None and before != traced.program.update_count():
                self.end("incomplete", f"the training step raised {one_line(error)}")
                raise
            return self._go_on_without(original, error)
        except BaseException as error:
            self.end("incomplete", f"the training was interrupted ({type(error).__name__})")
            raise
        try:
            if traced.taps.error is not None:
                raise traced.taps.error
            if self._recording is not None and not self._recording.record_bytes:
                self._recording.record_bytes = _bytes_of(result.tensors)
            if self.settings.policy.records_step(moment.step, moment.epoch):
                ids = self.settings.sample_ids
                self._hand_over(
                    traced, result, moment, None if ids is None else ids(*args, **kwargs)
                )
        except Exception as error:
            self.fail(error)
        self._step_seconds += result.duration
        self._handing_over += time.perf_counter() - begin - result.duration
        return result.result

    def keep_weights(self) -> None:
        """Take the present weights for the last ones, unless later ones are taken.

        They are copied only if another step assigns to them.
        """
        if self.traced is not None:
            self._last_weights = self.traced.present_weights()

    def validated(self, step: int, values: Mapping[str, Any]) -> None:
        """Record loss and metrics on the validation data, of the weights before `step`."""
        arrays = {
            f"validation/{safe_path(name)}": scalar(value, np.float64)
            for name, value in values.items()
            if self.settings.policy.covers("validation", safe_path(name)) and np.ndim(value) == 0
        }
        if self.traced is None or not arrays:
            return
        try:
            self._put(step, lambda: Collected(arrays))
        except Exception as error:
            self.fail(error)

    def log(self, step: int | None, name: str, value: npt.NDArray[Any]) -> None:
        """Keep a value that the training logs at `step`; the last one of a name counts.

        What is logged before the first step, at None, belongs to the first step.
        """
        path = safe_path(name)
        if not path:
            msg = f"{name!r} is no name to log a value under; use letters and digits"
            raise ValueError(msg)
        if value.dtype.kind not in "biuf":
            msg = f"'{name}' is logged as {value.dtype}; log numbers"
            raise ValueError(msg)
        if value.ndim == 0:
            value = value.astype(np.float64)  # 1 and 1.5 may be logged under one name
        value = value.astype(value.dtype.newbyteorder("="), copy=False)
        known = self._logged_as.setdefault(path, value)
        if (known.ndim, known.dtype) != (value.ndim, value.dtype):
            msg = (
                f"'{name}' was logged with {known.ndim} dimensions as {known.dtype}, and now with "
                f"{value.ndim} as {value.dtype}; log it under another name"
            )
            raise ValueError(msg)
        if not self.settings.policy.covers("logged", path):
            return
        if step != self._logged_at:
            self._put_logged()
        self._logged_at = step
        self._logged[f"logged/{path}"] = value

    def _put_logged(self) -> None:
        step = self._logged_at
        if self._logged and self.traced is not None and step is not None:
            arrays, self._logged = self._logged, {}
            self._put(step, lambda: Collected(arrays))

    def complete(self, step: int) -> None:
        """Record the last weights, which are those before step number `step`, and end."""
        if not self.active:
            return
        try:
            self._put_logged()
            if weights := self._last_weights:
                self._put(step, lambda: Collected(_to_arrays(weights)))
        except Exception as error:
            self.fail(error)
            return
        self.end("complete", None)

    def fail(self, error: Exception) -> None:
        """Stop because the tracer failed; what then happens is up to `on_error`."""
        told = self._told(error)
        is_limit = isinstance(error, DiskLimitError)
        self._finish("incomplete", told if is_limit else f"tracing failed: {told}")
        self._complain(error)

    def abandon(self) -> None:
        """End a recording whose training did not come to its end.

        The end of a process that the training forked is not the training's.
        """
        if os.getpid() == self._process:
            self.end("incomplete", NOT_ENDED)

    def end(self, status: Status, reason: str | None) -> None:
        """Finish the trace, and say so if that failed."""
        error = self._finish(status, reason)
        if error is not None:
            self._complain(error)

    def _go_on_without(self, original: Callable[[], Any], error: Exception) -> Any:
        """Do the step without the tracer, which shows whose error it was."""
        try:
            result = original()
        except Exception as own:
            self.end("incomplete", f"the training step raised {one_line(own)}")
            raise
        self.fail(error)
        return result

    def _hand_over(self, traced: TracedStep, result: StepResult, moment: Moment, ids: Any) -> None:
        if self._recording is None:
            return
        tensors = dict(result.tensors)
        if not self._began and traced.probe is not None:
            tensors |= traced.probe.inputs()
        self._began = True
        taps, missing, policy = traced.taps, traced.missing(), self.settings.policy

        def collect() -> Collected:
            inputs = [
                np.asarray(tensors.pop(k)) for k in sorted(tensors) if k.startswith(BATCH_INPUT)
            ]
            rows = np.asarray(tensors.pop(ROWS)).tolist()
            size = len(inputs[0]) if inputs else max(rows, default=0)
            misfits = taps.misfits(rows, size)
            for kind, path in misfits:
                tensors.pop(f"{kind}/{path}", None)
            arrays = _to_arrays(tensors)
            for name in (SAMPLE_LOSS, SAMPLE_WEIGHT):
                if len(arrays.get(f"inputs/{name}", range(size))) != size:
                    del arrays[f"inputs/{name}"]
                    misfits["inputs", name] = NOT_SAMPLES
            if ids is not None:
                arrays |= _with_ids(arrays, _checked_ids(ids, size), policy)
            if inputs and policy.covers("inputs", SAMPLE_DIGEST):
                arrays[f"inputs/{SAMPLE_DIGEST}"] = sample_digests(inputs)
            arrays |= {
                "scalars/epoch": scalar(moment.epoch, np.int64),
                "scalars/batch": scalar(moment.batch, np.int64),
                "scalars/batch_size": scalar(size, np.int64),
                "scalars/wall_time": scalar(result.wall_time, np.float64),
                "scalars/step_duration": scalar(result.duration, np.float64),
            }
            if policy.step_bytes is None:
                return Collected(arrays, (*missing, *as_missing(misfits)))
            left_out = beyond_budget(arrays, policy.step_bytes)
            arrays = {key: values for key, values in arrays.items() if key not in left_out}
            return Collected(arrays, (*missing, *as_missing(misfits), *left_out.values()))

        self._put(moment.step, collect)

    def _put(self, step: int, collect: Callable[[], Collected]) -> None:
        """Hand arrays over, as exactly as the policy wants them, while its budget lasts."""
        recording, policy = self._recording, self.settings.policy
        if recording is None:
            return
        if policy.total_bytes is not None and recording.raw_bytes >= policy.total_bytes:
            budget = human_bytes(policy.total_bytes)
            self.end("incomplete", f"the policy's budget of {budget} was used up at step {step}")
            return

        def with_precision() -> Collected:
            collected = collect()
            if not policy.precision:
                return collected
            arrays = {}
            for key, values in collected.arrays.items():
                kind = split_key(key)[0]
                keep_bits = None if policy.only_describes(kind) else policy.keep_bits(kind)
                arrays[key] = values if keep_bits is None else rounded(values, keep_bits)
            return Collected(arrays, collected.missing)

        recording.put(self._pending(step, with_precision))

    def _pending(self, step: int, collect: Callable[[], Collected]) -> PendingStep:
        """Return a step to hand over; with the first one, a trace that is there goes on."""
        before, self._before = self._before, None
        if before is None:
            return PendingStep(step, collect)

        def go_on() -> Collected:
            collected = collect()
            # Refuses another model, while the trace is as it was.
            specify(collected.arrays, self.settings.policy, before.arrays)
            before.begin()
            return collected

        return PendingStep(step, go_on)

    def _told(self, error: Exception) -> str:
        """Return an error as a part of a sentence that names the trace already."""
        if not isinstance(error, TraceError):
            return one_line(error)
        if isinstance(error.__cause__, TraceError):  # such as the recorder's, met while writing
            error = error.__cause__
        return str(error).splitlines()[0].removeprefix(f"{self.settings.path}: ")

    def _complain(self, error: Exception) -> None:
        """Say that the tracing has stopped, why, and what to do; once, when it is finished."""
        path, told = self.settings.path, self._told(error)
        advice = ["free space"] if os.strerror(errno.ENOSPC) in told else []
        command = f"steptrace recover {path}"
        if command not in told and JournalReader(journal_path(path)).exists:
            advice.append(f"run '{command}' to finish the trace")
        kept = ": ".join(["earlier steps are kept", *filter(None, [" and ".join(advice)])])
        if self.settings.on_error == "raise":
            msg = f"{path}: tracing stopped: {told}; {kept}"
            raise TraceError(msg) from error
        text = (
            f"{path}: tracing stopped: {told}; the training goes on without the tracer, and {kept}"
        )
        warnings.warn(text, RuntimeWarning, stacklevel=3)

    def _finish(self, status: Status, reason: str | None) -> TraceError | None:
        """Finish the trace; return what went wrong."""
        step = self._logged_at
        if self._recording is not None and self._logged and step is not None:
            logged, self._logged = self._logged, {}
            with suppress(TraceError):  # which closing the recording says again
                self._recording.put(self._pending(step, lambda: Collected(logged)))
        recording, self._recording, self.traced = self._recording, None, None
        self.active = False
        atexit.unregister(self.abandon)
        if recording is None:
            return None
        bar = ClosingProgress(shown=self.settings.progress)
        try:
            with bar.showing():
                summary = recording.close(status, reason, bar.waiting)
        except TraceError as error:
            return error
        if summary is not None and self.settings.progress:
            report(describe(summary, self._handing_over, self._step_seconds))
        return None


def one_line(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _with_ids(
    arrays: Mapping[str, npt.NDArray[Any]], ids: npt.NDArray[np.int64], policy: Policy
) -> dict[str, npt.NDArray[Any]]:
    """Return the ids of a batch's samples, and where a policy names samples, only their rows."""
    found: dict[str, npt.NDArray[Any]] = {}
    if policy.covers("inputs", SAMPLE_ID):
        found[f"inputs/{SAMPLE_ID}"] = ids
    if not policy.picks_samples:
        return found
    picked = np.flatnonzero(np.isin(ids, policy.samples))
    for key, values in arrays.items():
        kind, path = split_key(key)
        if has_samples(kind, path) and not policy.only_describes(kind):
            found[key] = values[picked]
    return found | {f"inputs/{RECORDED_ID}": ids[picked]}


def _checked_ids(ids: Any, size: int) -> npt.NDArray[np.int64]:
    found = np.asarray(ids)
    if found.shape != (size,) or found.dtype.kind not in "iu":
        msg = (
            f"sample_ids returned {found.dtype} of shape {found.shape}; it must return one integer "
            f"for each of the {size} samples"
        )
        raise TraceError(msg)
    return found.astype(np.int64)


def _bytes_of(tensors: Mapping[str, Any]) -> int:
    taps = (tensor for key, tensor in tensors.items() if not key.startswith(BATCH_INPUT))
    return sum(int(tensor.dtype.size) * math.prod(tensor.shape) for tensor in taps)


def _to_arrays(tensors: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    # NumPy has no bfloat16, and every bfloat16 is a float32.
    return {
        key: np.asarray(tf.cast(t, tf.float32) if t.dtype == tf.bfloat16 else t)
        for key, t in tensors.items()
    }
