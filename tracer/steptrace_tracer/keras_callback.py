"""The tracer as a Keras callback."""

from __future__ import annotations

import atexit
import datetime
import time
import uuid
import warnings
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from steptrace_schema.attributes import Policy, TraceAttributes
from steptrace_schema.errors import TraceError
from steptrace_schema.names import SAMPLE_DIGEST, Status
from steptrace_schema.store import refuse_existing
from steptrace_schema.version import PACKAGE_VERSION
from steptrace_tracer import provenance
from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.closing import ClosingProgress, describe, report
from steptrace_tracer.digests import sample_digests
from steptrace_tracer.naming import walk
from steptrace_tracer.recording import Collected, PendingStep, Recording, scalar
from steptrace_tracer.step import BATCH_INPUT, ROWS, StepResult, TracedStep
from steptrace_tracer.taps import as_missing

JOURNAL_LIMIT: Final = 4 * 2**30
"""Bytes that the journal may hold before training waits for the recorder, by default."""

OnError = Literal["warn", "raise"]

_NOT_ENDED = "the program ended before fit did"


class Tracer(keras.callbacks.Callback):  # type: ignore[misc]
    """Records every step of ``model.fit`` into a trace.

    The training is not changed: with the same seed, the weights are bit-identical with and without
    the tracer.

    Parameters
    ----------
    path
        Where the trace goes, a local path that usually ends in ``.zarr``.
    policy
        What to record, and when; the default records everything at every step.
    probe
        Inputs, in the structure that the model takes, that are pushed through the model in
        inference mode at every recorded step; by default the first ``policy.samples`` rows of the
        first batch.
    overwrite
        Replace a trace that is already at `path`.
    on_error
        What a failure of the tracer itself does: ``"warn"`` lets the training go on untraced and
        marks the trace as incomplete, ``"raise"`` ends the training.
    progress
        Show a bar on a terminal while the trace is being finished, and say at the end what it
        holds.
    journal_limit
        Bytes of local disk that may hold steps that are not in the store yet; when they are used
        up, training waits.
    **fields
        Fields of :class:`Policy`, instead of `policy`: ``Tracer("run.zarr", every=10, samples=8)``.

    Raises
    ------
    TraceExistsError
        When ``fit`` begins, if there is something at `path` and `overwrite` does not allow to
        replace it.

    Examples
    --------
    >>> model.fit(x, y, callbacks=[Tracer("run.zarr")])  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | Path,
        policy: Policy | None = None,
        *,
        probe: Any = None,
        overwrite: bool = False,
        on_error: OnError = "warn",
        progress: bool = True,
        journal_limit: int = JOURNAL_LIMIT,
        **fields: Any,
    ) -> None:
        super().__init__()
        if policy is not None and fields:
            msg = f"pass either policy or its fields ({', '.join(fields)}), not both"
            raise TypeError(msg)
        if on_error not in ("warn", "raise"):
            msg = f"on_error is {on_error!r}; it must be 'warn' or 'raise'"
            raise ValueError(msg)
        self.path = Path(path)
        self.policy = policy if policy is not None else Policy(**fields)
        self._probe = probe
        self._overwrite = overwrite
        self._on_error = on_error
        self._progress = progress
        self._journal_limit = journal_limit
        self._recording: Recording | None = None
        self._step: TracedStep | None = None
        self._original: Any = None
        self._epoch = 0
        self._batch: int | None = None
        self._next_step = 0
        self._last_weights: dict[str, Any] = {}
        self._handing_over = 0.0
        self._step_seconds = 0.0
        self._used = False
        self._tracing = False
        self._began = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Take over the model's train function."""
        if self._used:
            msg = (
                f"this Tracer has already recorded a fit into {self.path}; make a new Tracer with "
                "another path for another fit"
            )
            raise TraceError(msg)
        # A mistake to correct before hours of training, whatever on_error says.
        refuse_existing(self.path, overwrite=self._overwrite)
        self._used = True
        try:
            self._take_over()
        except Exception as error:
            self._fail(error)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the batch."""
        self._batch = batch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the weights, which may be the last ones.

        When the training ends, Keras or another callback may have put averaged or best ones in
        their place. They are copied only if another step assigns to them.
        """
        if self._step is not None:
            self._last_weights = self._step.present_weights()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Record the last weights, give the train function back, and finish the trace."""
        if not self._tracing:
            return
        try:
            if self._recording is not None and (weights := self._last_weights):
                self._recording.put(
                    PendingStep(self._next_step, lambda: Collected(_to_arrays(weights)))
                )
        except Exception as error:
            self._fail(error)
            return
        self._end("complete", None)

    def _take_over(self) -> None:
        model = self.model
        if model.distribute_strategy.num_replicas_in_sync > 1:
            msg = "training on several replicas is not recorded yet; use a single device"
            raise TraceError(msg)
        if model.optimizer is None:
            msg = "the model has no optimizer, so it has no steps to record"
            raise TraceError(msg)
        if isinstance(holder := getattr(model.train_function, "__self__", None), Tracer):
            holder._abandon()  # of a fit that never came to its end
        self._next_step = update_count(model.optimizer)
        self._original = model.train_function
        model.train_function = self._train_function
        self._tracing = True
        atexit.register(self._abandon)

    def _prepare(self, data: Any) -> TracedStep:
        """Begin the trace with the first batch, which shows what an unbuilt model looks like."""
        model = self.model
        if not all(layer.built for layer in (model, *(layer for layer, _ in walk(model)))):
            model._symbolic_build(data_batch=data)
        step = TracedStep(model, self.policy, self._probe)
        attributes = TraceAttributes(
            run_id=uuid.uuid4().hex,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            producer=f"steptrace {PACKAGE_VERSION}",
            policy=self.policy,
            model=provenance.describe_model(model),
            layers=provenance.describe_layers(model, step.names),
            optimizer=provenance.describe_optimizer(model.optimizer),
            loss=provenance.describe_loss(model),
            environment=provenance.describe_environment(),
        )
        self._recording = Recording(self.path, attributes, self._journal_limit)
        return step

    def _train_function(self, iterator: Any) -> Any:
        """Do what Keras' own train function does, recording the steps that the policy wants."""
        if self._batch is None:
            # Another fit, without this callback: the one that was recorded never came to its end.
            original = self._original
            self._abandon()
            return original(iterator)
        batch, self._batch = self._batch, None
        count = self.model.steps_per_execution
        first = self._next_step
        if not any(self.policy.records_step(step) for step in range(first, first + count)):
            logs = self._original(iterator)
            # The last of several executions may hold fewer steps, as only the optimizer knows.
            present = first + 1 if count == 1 else update_count(self.model.optimizer)
            self._next_step = max(first + 1, present)
            return logs
        logs = None
        for offset in range(count):
            try:
                data = next(iterator)
            except (StopIteration, tf.errors.OutOfRangeError):
                if offset == 0:
                    raise
                break
            except BaseException as error:
                self._end("incomplete", f"reading the next batch raised {_one_line(error)}")
                raise
            logs = self._train_on(data, batch + offset, getattr(iterator, "element_spec", None))
        return logs

    def _train_on(self, data: Any, batch: int, spec: Any) -> Any:
        if not self._tracing:
            return self._original(iter([data]))
        number, self._next_step = self._next_step, self._next_step + 1
        try:
            step = self._step = self._step or self._prepare(data)
        except Exception as error:
            self._fail(error)
            return self._original(iter([data]))
        begin = time.perf_counter()
        # A compiled step that fails has not assigned anything; an eager one may have.
        before = update_count(self.model.optimizer) if self.model.run_eagerly else None
        try:
            result = step.run(data, spec)
        except Exception as error:
            if before is not None and before != update_count(self.model.optimizer):
                self._fail(error)
                return self.model.get_metrics_result()
            return self._go_on_without(data, error)
        except BaseException as error:
            self._end("incomplete", f"the training was interrupted ({type(error).__name__})")
            raise
        try:
            if step.taps.error is not None:
                raise step.taps.error
            if self.policy.records_step(number):
                self._hand_over(step, result, number, batch)
        except Exception as error:
            self._fail(error)
        self._step_seconds += result.duration
        self._handing_over += time.perf_counter() - begin - result.duration
        return result.logs

    def _go_on_without(self, data: Any, error: Exception) -> Any:
        """Do the step as Keras does it, which shows whose error it was."""
        try:
            logs = self._original(iter([data]))
        except Exception as own:
            self._end("incomplete", f"the training step raised {_one_line(own)}")
            raise
        self._fail(error)
        return logs

    def _hand_over(self, step: TracedStep, result: StepResult, number: int, batch: int) -> None:
        if self._recording is None:
            return
        tensors = dict(result.tensors)
        if not self._began and step.probe is not None:
            tensors |= step.probe.inputs()
        self._began = True
        epoch, taps, missing = self._epoch, step.taps, step.missing()

        def collect() -> Collected:
            inputs = [
                np.asarray(tensors.pop(k)) for k in sorted(tensors) if k.startswith(BATCH_INPUT)
            ]
            size = len(inputs[0]) if inputs else 0
            misfits = taps.misfits(np.asarray(tensors.pop(ROWS)).tolist(), size)
            for kind, path in misfits:
                del tensors[f"{kind}/{path}"]
            arrays = _to_arrays(tensors)
            if inputs and self.policy.covers("inputs", SAMPLE_DIGEST):
                arrays[f"inputs/{SAMPLE_DIGEST}"] = sample_digests(inputs)
            arrays |= {
                "scalars/epoch": scalar(epoch, np.int64),
                "scalars/batch": scalar(batch, np.int64),
                "scalars/batch_size": scalar(size, np.int64),
                "scalars/wall_time": scalar(result.wall_time, np.float64),
                "scalars/step_duration": scalar(result.duration, np.float64),
            }
            return Collected(arrays, (*missing, *as_missing(misfits)))

        self._recording.put(PendingStep(number, collect))

    def _fail(self, error: Exception) -> None:
        """Stop tracing because the tracer failed; what then happens is up to `on_error`."""
        reason = _one_line(error)
        self._finish("incomplete", f"tracing failed: {reason}")
        self._complain(f"{self.path}: tracing stopped ({reason}); earlier steps are kept", error)

    def _complain(self, message: str, error: Exception) -> None:
        if self._on_error == "raise":
            raise TraceError(message) from error
        text = f"{message}; the training goes on without the tracer"
        warnings.warn(text, RuntimeWarning, stacklevel=3)

    def _abandon(self) -> None:
        """Close the trace of a fit that did not come to its end."""
        self._end("incomplete", _NOT_ENDED)

    def _end(self, status: Status, reason: str | None) -> None:
        """Finish the trace, and say so if that failed."""
        error = self._finish(status, reason)
        if error is not None:
            self._complain(str(error), error)

    def _finish(self, status: Status, reason: str | None) -> TraceError | None:
        """Give the train function back and finish the trace; return what went wrong."""
        recording, self._recording, self._step = self._recording, None, None
        atexit.unregister(self._abandon)
        if self._tracing:
            self._tracing = False
            self.model.train_function = self._original
        if recording is None:
            return None
        bar = ClosingProgress(shown=self._progress)
        try:
            with bar.showing():
                summary = recording.close(status, reason, bar.waiting)
        except TraceError as error:
            return error
        if summary is not None and self._progress:
            report(describe(summary, self._handing_over, self._step_seconds))
        return None


def update_count(optimizer: Any) -> int:
    """Return how many steps the optimizer has done; those that only accumulate count as well."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return int(inner._iterations.numpy())


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _to_arrays(tensors: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    # NumPy has no bfloat16, and every bfloat16 is a float32.
    return {
        key: np.asarray(tf.cast(t, tf.float32) if t.dtype == tf.bfloat16 else t)
        for key, t in tensors.items()
    }
