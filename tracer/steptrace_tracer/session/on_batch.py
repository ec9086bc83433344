"""Loops of ``train_on_batch``: every update that Keras does in the loop's function is a step.

``train_on_batch`` takes no callbacks. It asks the model for its train function, as ``fit`` does,
and calls it with one batch; for as long as the loop's function runs, it gets one that records.
"""

from __future__ import annotations

import dataclasses
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.capture.building import is_built
from steptrace_tracer.capture.frozen_step import FrozenStep
from steptrace_tracer.capture.names import walk_layers
from steptrace_tracer.capture.program import fit_program
from steptrace_tracer.capture.rebinding import rebound
from steptrace_tracer.keras_private import build, train_on, update_count
from steptrace_tracer.private_names import MissingNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from steptrace_tracer.capture.program import Program
    from steptrace_tracer.session.session import Session
    from steptrace_tracer.session.step_count import StepCount


class OnBatch:
    """Records what the train functions of compiled models do.

    Parameters
    ----------
    models, optimizers
        What is recorded, always in this order; where one is trained as a part of another model, the
        step of that one is recorded.
    session
        Where the steps go.
    count
        Numbers them.
    """

    def __init__(
        self,
        models: tuple[Any, ...],
        optimizers: tuple[Any, ...],
        session: Session,
        count: StepCount,
    ) -> None:
        self._models = models
        self._optimizers = optimizers
        self._session = session
        self._count = count
        self._taken: dict[int, tuple[Any, Any]] = {}
        self._programs: dict[int, tuple[FrozenStep, Program | None]] = {}
        self._thread = 0

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Have the train functions that are asked for inside the context record their steps."""
        owner = next(kind for kind in keras.Model.__mro__ if "make_train_function" in vars(kind))
        self._thread = threading.get_ident()
        try:
            with rebound(owner, "make_train_function", self._see_make):
                yield
        finally:
            for model, original in self._taken.values():
                model.train_function = original
            self._taken.clear()

    def _see_make(self, make: Callable[..., None]) -> Callable[..., None]:
        def seen(model: Any, *args: Any, **kwargs: Any) -> None:
            make(model, *args, **kwargs)
            if threading.get_ident() != self._thread:
                return  # another loop's, of another thread
            if id(model) in self._taken or model.optimizer is None or not self._session.active:
                return
            frozen = FrozenStep.of(model, model.train_function)
            original = model.train_function
            if not frozen.eager:
                original = frozen.untraced(original)
            self._taken[id(model)] = (model, original)

            def train_function(iterator: Any) -> Any:
                return self._train(model, frozen, original, iterator)

            model.train_function = train_function

        return seen

    def _train(self, model: Any, frozen: FrozenStep, original: Any, iterator: Any) -> Any:
        """Do what the model's own function does with the next batch, and record it."""
        session = self._session
        if isinstance(iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)):
            return original(iterator)  # of a fit inside the loop, which has callbacks of its own
        # A step that runs eagerly gets arrays of NumPy, which Keras makes tensors of.
        data = tf.nest.map_structure(_as_tensor, next(iterator))

        def without_tracer() -> Any:
            return train_on(original, data)

        program = self._program(model, frozen, data)
        if program is None or not session.active:
            return without_tracer()
        try:
            if session.traced is None:
                self._count.first = update_count(self._optimizers[0])
                session.begin(program, self._count.first)
            else:
                session.turn_to(program)
        except Exception as error:
            session.fail(error)
            return without_tracer()
        position = self._count.take()
        if not session.wants(position.step, position.epoch):
            return without_tracer()
        return session.run((data,), {}, position, without_tracer)

    def _program(self, model: Any, frozen: FrozenStep, data: Any) -> Program | None:
        """Return the step of `model`, None where it updates no weight that is recorded."""
        kept = self._programs.get(id(model))
        if kept is not None and kept[0] is frozen:
            return kept[1]
        if not all(map(_is_built, (*self._models, model))):
            try:
                build(model, data)
            except MissingNameError:
                self._session.told.note_missing_names(self._session.settings.path)
            if not all(map(_is_built, (*self._models, model))):
                return None  # the step builds it; the next one is recorded
        recorded = {id(weight) for found in self._models for weight in found.weights}
        program = None
        # What Keras finds to be trainable now, when it compiles the step, is so for good.
        if any(id(weight) in recorded for weight in model.trainable_weights):
            program = dataclasses.replace(
                fit_program(model, None, frozen),
                models=self._models,
                optimizers=self._optimizers,
                trained=model,
            )
        self._programs[id(model)] = (frozen, program)
        return program


def _as_tensor(value: Any) -> Any:
    return tf.convert_to_tensor(value) if isinstance(value, np.ndarray) else value


def _is_built(model: Any) -> bool:
    return all(map(is_built, (model, *(layer for layer, _ in walk_layers(model)))))
