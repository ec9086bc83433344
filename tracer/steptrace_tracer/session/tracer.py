"""The tracer: a Keras callback for ``fit``, and a context manager for custom training loops."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

from steptrace_schema.errors import TraceError
from steptrace_schema.format.policy import Policy
from steptrace_schema.storage.location import Location, locate
from steptrace_tracer._tensorflow import keras
from steptrace_tracer.session.beginning import begin_session
from steptrace_tracer.session.closing_report import is_quiet
from steptrace_tracer.session.copies import copied
from steptrace_tracer.session.failure import one_line
from steptrace_tracer.session.fit_end import end_after_others
from steptrace_tracer.session.incident_watch import INCIDENT_BYTES, INCIDENTS
from steptrace_tracer.session.live_watch import LiveWatch
from steptrace_tracer.session.logged_values import value_of
from steptrace_tracer.session.recorded_steps import RecordedSteps
from steptrace_tracer.session.rest import FitEnds
from steptrace_tracer.session.settings import JOURNAL_LIMIT, OnError, Settings
from steptrace_tracer.session.traced_fit import TracedFit
from steptrace_tracer.session.workers import current_worker
from steptrace_tracer.session.wrapped_step import WrappedStep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from steptrace_tracer.capture.proven_step import Capture
    from steptrace_tracer.session.live_watch import LiveFinding, OnFinding
    from steptrace_tracer.session.session import Session


class Tracer(keras.callbacks.Callback):  # type: ignore[misc]
    """Records every step of a training into a trace.

    Pass it to ``model.fit`` as a callback. In a custom training loop, :meth:`wrap` the function
    that does one step, and use the tracer in a ``with`` statement, or :meth:`close` it after the
    loop.

    The tracer does not change the training: with the same seed, the weights are bit-identical with
    and without it.

    Parameters
    ----------
    path
        Path of the trace: a local path that usually ends in ``.zarr``, or ``s3://bucket/path``. If
        several processes train together (as ``TF_CONFIG``, ``RANK`` and ``WORLD_SIZE``, Slurm or
        Open MPI say), it is a folder in which each writes its own, ``worker-<rank>.zarr``.
    policy
        What to record, and when. The default records the default kinds at every step.
    probe
        Inputs in the structure that the model takes. They are pushed through the model in inference
        mode at every recorded step. By default, the first ``policy.samples`` rows of the first
        batch.
    overwrite
        Replace an existing trace at `path`.
    resume
        Resume the trace at `path`, if there is one. Load the checkpoint before the training begins.
        Steps that are trained again replace their records. A second ``fit`` with the same tracer
        always continues its trace.
    on_error
        What happens if the tracer itself fails: ``"warn"`` continues the training without it and
        marks the trace as incomplete; ``"raise"`` ends the training.
    progress
        Show a bar on a terminal while the trace is finished, and then a summary, in one line if it
        was resumed. ``STEPTRACE_QUIET=1`` shows neither.
    journal_limit
        Bytes of local disk for steps that wait to be stored. When they are used up, training waits.
    capture
        How steps are captured. ``"inside"``: the training step itself returns what is recorded,
        which costs least. ``"beside"``: a second function computes it from the same batch, weights
        and random states, and the step runs as TensorFlow compiled it without the tracer; what is
        recorded is equal to the training's values up to rounding. ``"auto"``: inside where both
        leave every variable with the same bits, which the first steps show; beside elsewhere.
    sample_ids
        A function of the batch, as the step gets it. It returns an integer for each sample, which
        names the sample in the trace.
    incidents, incident_bytes
        How many steps are kept as a whole, and their most bytes: steps at which loss or gradient is
        not finite, loss, gradients or update jump, the step raises an exception, or :meth:`mark` is
        called. ``steptrace replay`` runs such a step again. 0 keeps none.
    watch
        Rules that judge each recorded step while the training runs: ``"non_finite"``,
        ``"loss_spike"``, ``"gradient_jump"``, ``"update_jump"``. None by default.
    on_finding
        What is done with a finding, once the step is over: ``"warn"``; ``"mark"``, as :meth:`mark`
        does; ``"stop"``, which ends ``fit`` as ``model.stop_training`` does, and sets
        :attr:`stopped` for custom loops; or a function that is called with a :class:`LiveFinding`.
    **fields
        Fields of :class:`Policy`, instead of `policy`: ``Tracer("run.zarr", every=10, samples=8)``.

    Attributes
    ----------
    epoch : int
        The epoch of the steps that follow. In a custom training loop, set it at each epoch.

    Raises
    ------
    TraceExistsError
        When the training begins, if something exists at `path` that `overwrite` does not allow to
        replace.
    TraceError
        When the training begins, if the trace to resume is still being written.

    Examples
    --------
    >>> model.fit(x, y, callbacks=[Tracer("run.zarr")])  # doctest: +SKIP

    >>> with Tracer("run.zarr") as tracer:  # doctest: +SKIP
    ...     step = tracer.wrap(train_step)
    ...     for x, y in batches:
    ...         step(x, y)
    """

    def __init__(
        self,
        path: str | Location,
        policy: Policy | None = None,
        *,
        probe: Any = None,
        overwrite: bool = False,
        resume: bool = False,
        on_error: OnError = "warn",
        progress: bool = True,
        journal_limit: int = JOURNAL_LIMIT,
        capture: Capture = "auto",
        sample_ids: Callable[..., Any] | None = None,
        incidents: int = INCIDENTS,
        incident_bytes: int = INCIDENT_BYTES,
        watch: Sequence[str] = (),
        on_finding: OnFinding = "warn",
        **fields: Any,
    ) -> None:
        super().__init__()
        if policy is not None and fields:
            msg = f"pass either policy or its fields ({', '.join(fields)}), not both"
            raise TypeError(msg)
        worker = current_worker(os.environ)
        location = locate(path)
        self.path = location if worker is None else location / f"worker-{worker.rank}.zarr"
        self.policy = policy if policy is not None else Policy(**fields)
        self.epoch = 0
        self._live = LiveWatch(watch, on_finding, self.path)
        asked = (progress and not is_quiet(), journal_limit, resume, worker, capture, sample_ids)
        kept = (incidents, incident_bytes, RecordedSteps(self.policy), self._live)
        self._settings = Settings(self.path, self.policy, probe, on_error, *asked, *kept)
        self._overwrite = overwrite
        self._copies = itertools.count(2)
        self._session: Session | None = None
        self._fit = TracedFit(lambda: self.epoch, self._may_be_last)
        self._fit_ends = FitEnds()
        self._wrapped: WrappedStep | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a tracer with the same settings, of a trace of its own: ``run-2.zarr``, and so on.

        A search over hyper-parameters gives each of its trials a deep copy of the callbacks.
        """
        number, overwrite = next(self._copies), self._overwrite
        return copied(self, Tracer.__init__, self._settings, number, overwrite=overwrite)

    @property
    def stopped(self) -> LiveFinding | None:
        """The finding because of which the training is to stop; a custom loop looks at it."""
        return self._live.stop

    def wrap(
        self,
        train_step: Callable[..., Any],
        *,
        models: Sequence[Any] = (),
        optimizers: Sequence[Any] = (),
    ) -> WrappedStep:
        """Return a function that does the same training step and records it.

        Parameters
        ----------
        train_step
            A Python function, a ``tf.function``, or a bound method that does one step: it computes
            gradients of one or more losses with ``tf.GradientTape.gradient`` and applies them. Its
            first argument is the batch: ``x``, ``(x, y)``, or ``x`` with ``y`` as the second
            argument.
        models, optimizers
            The models that it trains, and their optimizers. The first optimizer counts the steps.
            By default, those that the function refers to: in its arguments, its enclosing
            functions, global variables, or the object that it is a method of.

        Raises
        ------
        TraceError
            If this tracer already records another step.
        TraceExistsError
            If something exists at the trace's path that may not be replaced.

        Examples
        --------
        >>> step = Tracer("run.zarr").wrap(train_step)  # doctest: +SKIP
        """
        session, tell = self._begin_session(), lambda: self._live.tell(self.mark)
        self._wrapped = WrappedStep(
            train_step, tuple(models), tuple(optimizers), session, lambda: self.epoch, tell
        )
        return self._wrapped

    def log(self, name: str, value: Any) -> None:
        """Record a number or an array under a name, at the current step.

        Call it between steps: in another callback, or in a custom training loop. The value belongs
        to the last step. Before the first step, and in ``on_train_batch_begin`` of a callback that
        comes after the tracer, it belongs to the next step. If a name is logged twice at a step,
        the last value counts.

        Parameters
        ----------
        name
            A name such as ``"noise"`` or ``"reward/mean"``.
        value
            A number, or an array of numbers. Its lengths may change from step to step, its number
            of dimensions may not.

        Raises
        ------
        ValueError
            If `value` does not consist of numbers, has another number of dimensions than before, or
            is a symbolic tensor, which has no value yet.

        Examples
        --------
        >>> tracer.log("temperature", 0.7)  # doctest: +SKIP
        """
        array, session = value_of(name, value), self._session
        if session is not None and session.active:
            session.log(self._current_step(), name, array)

    def _current_step(self) -> int | None:
        wrapped = self._wrapped
        return wrapped.current_step if wrapped is not None else self._fit.current_step

    def mark(self) -> None:
        """Mark the current step: it is kept as a whole, and a policy may retain those around it.

        The step is recorded as ``logged/mark``.

        Examples
        --------
        >>> Tracer("run.zarr", retain=around("mark", before=20)).mark()  # doctest: +SKIP
        """
        self.log("mark", 1.0)
        if self._session is not None and self._session.active:
            self._session.mark(self._current_step())

    def close(self) -> None:
        """Finish the trace: after a custom loop, or of short fits that others might follow."""
        self._fit_ends.close()
        if self._wrapped is not None:
            self._wrapped.close()

    def __enter__(self) -> Self:
        """Return the tracer, which is closed at the end of the ``with`` statement."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish the trace; after an exception, as an incomplete one."""
        if error is None:
            self.close()
            return
        self._fit.give_back()
        if self._session is not None and self._session.active:
            self._session.end("incomplete", f"the training was ended by {one_line(error)}")

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Take over the model's train function."""
        rested = self._fit_ends.begin(may_continue=self._fit.may_continue(self.model))
        session = (rested and self._session) or self._begin_session()
        try:
            self._fit.take_over(self.model, session)
        except Exception as error:
            session.fail(error)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the epoch."""
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the batch."""
        self._fit.batch = batch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Tell of what was found, and keep the weights if no other step follows."""
        if self._live.tell(self.mark):
            self.model.stop_training = True
        if self.model.stop_training and self._session is not None:
            self._session.keep_weights(self._fit.next_step)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the validation, and keep the weights, unless the last step has done so."""
        if self._session is None:
            return
        self._session.keep_weights(self._fit.next_step)
        validation = {
            name.removeprefix("val_"): value
            for name, value in (logs or {}).items()
            if name.startswith("val_")  # as Keras calls those on the validation data
        }
        self._session.validated(self._fit.next_step, validation)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Record the last weights, give the train function back, and finish the trace."""
        session = self._session
        try:
            self._fit.check()
        except TraceError as error:
            if session is not None and session.active:
                session.fail(error)
        finally:
            self._fit.give_back()
        if session is not None:
            end_after_others(self, session, self._fit.next_step, self._fit_ends)

    def _may_be_last(self, batch: int) -> bool:
        """Whether `batch` may be the last one of its epoch, after which weights may be replaced."""
        return batch + 1 >= ((self.params or {}).get("steps") or 0)

    def _begin_session(self) -> Session:
        self._fit_ends.close()
        earlier = self._session
        if earlier is not None and earlier.active:
            if self._wrapped is not None:
                msg = (
                    f"{self.path}: this tracer already records another training step; wrap one "
                    "function that does the whole step, or call close() first"
                )
                raise TraceError(msg)
            earlier.abandon()  # a fit that did not reach its end
        self._wrapped = None
        resume = earlier is not None or self._settings.resume
        self._session = begin_session(self._settings, resume=resume, overwrite=self._overwrite)
        return self._session
