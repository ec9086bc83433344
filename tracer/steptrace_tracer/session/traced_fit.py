"""Recording ``fit``: a train function in place of the model's, which records its steps."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, cast

from steptrace_schema.errors import TraceError
from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.capture.building import is_built
from steptrace_tracer.capture.frozen_step import FrozenStep
from steptrace_tracer.capture.names import walk_layers
from steptrace_tracer.capture.program import fit_program, replica_strategy
from steptrace_tracer.keras_private import build, train_on, update_count
from steptrace_tracer.private_names import TRAIN_FUNCTION, MissingNameError
from steptrace_tracer.session.collect_step import StepPosition
from steptrace_tracer.session.failure import one_line
from steptrace_tracer.session.fed_batches import FedBatches, can_feed

if TYPE_CHECKING:
    from collections.abc import Callable

    from steptrace_tracer.capture.program import Program
    from steptrace_tracer.session.executions import AtOnce
    from steptrace_tracer.session.session import Session


class TracedFit:
    """Does what the train function of a model does, and has its steps recorded.

    It lasts as long as its tracer: a second ``fit`` continues the count of the first one.

    Parameters
    ----------
    epoch
        Returns the present epoch.
    may_be_last
        Says of the number of a batch whether it may be the last one of its epoch. What callbacks do
        then, in whatever order, comes after the weights were kept.

    Attributes
    ----------
    next_step
        Number of the step to come.
    batch
        Number of the batch that has begun; None between two.
    """

    def __init__(self, epoch: Callable[[], int], may_be_last: Callable[[int], bool]) -> None:
        self._epoch = epoch
        self._may_be_last = may_be_last
        self.next_step = 0
        self.batch: int | None = None
        self._first_step = 0
        self._model: Any = None
        self._original: Any = None
        self._frozen: FrozenStep | None = None
        self._turns = False
        self._has_waited = False
        self._session: Session | None = None
        self._fed: FedBatches | None = None
        self._fed_spec: Any = None

    @property
    def current_step(self) -> int:
        """The number of the step that was done last, or whose batch has begun."""
        if self.batch is not None or self.next_step == self._first_step:
            return self.next_step  # whose batch has begun, or that will be the first
        return self.next_step - 1

    def may_continue(self, model: Any) -> bool:
        """Whether `model` is trained by the same compiled step as in the last fit."""
        frozen = self._frozen
        return (
            frozen is not None
            and model is self._model
            and not frozen.eager
            and FrozenStep.of(model, model.train_function) is frozen
        )

    def take_over(self, model: Any, session: Session) -> None:
        """Take the place of the model's train function.

        Raises
        ------
        TraceError
            If the model has no optimizer.
        """
        self.give_back()  # of a fit before that did not reach its end, maybe of another model
        self._session = session
        self._turns = session.traced is not None
        self._has_waited = False
        if model.optimizer is None:
            msg = "the model has no optimizer, so it has no steps to record"
            raise TraceError(msg)
        if isinstance(holder := getattr(model.train_function, "__self__", None), TracedFit):
            holder._abandon()  # of a fit that did not reach its end
        # A model that was compiled again counts from 0 again; its trace continues.
        self.next_step = max(self.next_step, update_count(model.optimizer))
        self._first_step = self.next_step
        self._model, self._frozen = model, FrozenStep.of(model, model.train_function)
        self._original = model.train_function
        if not self._frozen.eager:
            self._original = self._frozen.untraced(model.train_function)
        model.train_function = self._train_function

    def check(self) -> None:
        """Raise if steps were done, but not by the model's train function.

        Raises
        ------
        TraceError
            If this version of Keras does its steps in another way.
        """
        if self._original is not None and self.batch is not None:
            raise TraceError(str(TRAIN_FUNCTION))

    def give_back(self) -> None:
        """Give the train function back."""
        original, self._original = self._original, None
        if original is not None and self._frozen is not None:
            self._model.train_function = self._frozen.left(original)

    def _abandon(self) -> None:
        self.give_back()
        if self._session is not None:
            self._session.abandon()

    def _train_function(self, iterator: Any) -> Any:
        """Do what Keras' own train function does, recording the steps that the policy wants."""
        original, session = self._original, self._session
        if self.batch is None or session is None:
            # Another fit, without this callback: the recorded one did not reach its end.
            self._abandon()
            return original(iterator)
        batch, self.batch = self.batch, None
        count = self._model.steps_per_execution
        first = self.next_step
        if not session.wants(first, self._epoch(), count):
            before = 0 if count == 1 else update_count(self._model.optimizer)
            logs = original(iterator)
            # The last of several executions may hold fewer steps, as only the optimizer knows,
            # which counts from 0 again where the model was compiled again.
            done = 1 if count == 1 else update_count(self._model.optimizer) - before
            self.next_step = first + max(1, done)
            self._keep_weights(session, batch + count - 1)
            return logs
        if count > 1 and (several := self._several(session, iterator, count)) is not None:
            position = StepPosition(first, self._epoch(), batch)
            results = session.run_several(several, iterator, position)
            if not results:
                raise StopIteration
            self.next_step = first + sum(result.steps for result in results)
            return self._left(session, batch + count - 1, results[-1].result)
        logs = None
        for offset in range(count):
            try:
                data = next(iterator)
            except (StopIteration, tf.errors.OutOfRangeError):
                if offset == 0:
                    raise
                break
            except BaseException as error:
                session.end("incomplete", f"reading the next batch raised {one_line(error)}")
                raise
            spec = getattr(iterator, "element_spec", None)
            logs = self._train_on(session, data, batch + offset, spec)
        return self._left(session, batch + count - 1, logs)

    def _left(self, session: Session, batch: int, logs: Any) -> Any:
        """Return what an execution gave, whose last batch was `batch`, when all is kept of it."""
        self._keep_weights(session, batch)
        if not session.active:
            self.give_back()
        return logs

    def _several(self, session: Session, iterator: Any, count: int) -> AtOnce | None:
        """Return what does the steps of one execution at once, None where each is done alone."""
        if not isinstance(iterator, tf.data.Iterator) or self._turns:
            return None
        return session.several(iterator, count, self._original)

    def _keep_weights(self, session: Session, batch: int) -> None:
        if self._may_be_last(batch):
            session.keep_weights(self.next_step)

    def _train_on(self, session: Session, data: Any, batch: int, spec: Any) -> Any:
        original, frozen = self._original, cast("FrozenStep", self._frozen)

        def without_tracer() -> Any:
            return self._untraced(original, data, spec)

        if not session.active:
            return without_tracer()
        step, self.next_step = self.next_step, self.next_step + 1
        try:
            if session.traced is None:
                if not self._build(data):
                    session.told.note_missing_names(session.settings.path)
                    return without_tracer()  # which builds the model; the next step is the first
                session.begin(self._program(spec, frozen), step)
            elif self._turns:  # the data of this fit may be of another signature
                session.turn_to(self._program(spec, frozen), step)
            self._turns = False
        except Exception as error:
            session.fail(error)
            return without_tracer()
        return session.run((data,), {}, StepPosition(step, self._epoch(), batch), without_tracer)

    def _program(self, spec: Any, frozen: FrozenStep) -> Program:
        program = fit_program(self._model, spec, frozen)
        can_repeat = program.can_repeat or can_feed(spec, program.strategy)
        return dataclasses.replace(program, can_repeat=can_repeat)

    def _untraced(self, original: Any, data: Any, spec: Any) -> Any:
        """Train on `data` with the model's own function, which gets it as from its data set."""
        strategy = replica_strategy(self._model)
        if not can_feed(spec, strategy):
            return train_on(original, data)
        if self._fed is None or self._fed_spec != spec:
            self._fed, self._fed_spec = FedBatches(spec, strategy), spec
        # Of several steps in one execution, the function would ask for the others too.
        is_one_of_several = self._model.steps_per_execution > 1
        return original(self._fed.alone(data) if is_one_of_several else self._fed(data))

    def _build(self, data: Any) -> bool:
        """Build a model that has not seen data yet, as Keras does before the first step.

        Returns whether it is built. A model with its own train_step need not be callable itself:
        one step builds what it calls.
        """
        model = self._model
        children = [layer for layer, _ in walk_layers(model)]
        if self._has_waited or all(map(is_built, (model, *children))):
            return True
        if children and type(model).call is keras.Model.call:
            self._has_waited = not all(map(is_built, children))
            return not self._has_waited
        try:
            build(model, data)
        except MissingNameError:
            return False
        except Exception:
            self._has_waited = not children or not all(map(is_built, children))
            return not self._has_waited
        return True
