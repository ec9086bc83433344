"""Custom training loops: a step function that is recorded whenever it is called."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import types
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.errors import TraceError
from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.capture.building import is_built
from steptrace_tracer.capture.plain_step import plain, plain_body
from steptrace_tracer.capture.program import (
    Compiled,
    Program,
    reached_variables,
    replica_strategy,
)
from steptrace_tracer.keras_private import function_settings, update_count
from steptrace_tracer.session.assigned_outside import AssignedOutside
from steptrace_tracer.session.on_batch import OnBatch
from steptrace_tracer.session.perturbing import PERTURBER
from steptrace_tracer.session.step_batch import batch_finder, parameter_names
from steptrace_tracer.session.step_count import StepCount
from steptrace_tracer.session.taken_batches import FedStep, TakenBatches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from steptrace_tracer.session.session import Session

_INSIDE: Final = (
    "the wrapped step is called while another function is compiled, or on a replica; wrap the "
    "outermost function of the step"
)


class WrappedStep:
    """A training step that is recorded. Call it like the original function.

    :meth:`steptrace_tracer.Tracer.wrap` makes it.

    Parameters
    ----------
    train_step
        The user's function.
    models, optimizers
        What it trains, and with what; where empty, they are looked for.
    session
        Where the steps go.
    epoch
        Returns the present epoch.
    after
        Called when a step is over.
    """

    def __init__(
        self,
        train_step: Callable[..., Any],
        models: tuple[Any, ...],
        optimizers: tuple[Any, ...],
        session: Session,
        epoch: Callable[[], int],
        after: Callable[[], object],
    ) -> None:
        functools.update_wrapper(self, train_step)
        self._original = train_step
        self._models = models
        self._optimizers = optimizers
        self._session = session
        self._count = StepCount(epoch)
        self._after = after
        self._on_batch: OnBatch | None = None
        self._taken: TakenBatches | None = None
        self._fed: FedStep | None = None
        self._outside: AssignedOutside | None = None
        self._was_done = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do one step; return what the user's function returns."""
        # AutoGraph rewrites this where a compiled function calls it, and then the user's function.
        if tf.executing_eagerly():
            return self._run(args, kwargs)
        self._refuse()
        return self._original(*args, **kwargs)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def _refuse(self) -> None:
        if self._session.active:
            self._session.fail(TraceError(_INSIDE))

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if (perturber := PERTURBER.present()) is not None:
            args, kwargs = perturber.arguments(args, kwargs, lambda: self._trained(args, kwargs)[0])
        with nullcontext() if self._outside is None else self._outside.step():
            result = self._do(args, kwargs)
        self._watch_weights()
        self._after()
        return result

    def _do(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        session = self._session
        original = functools.partial(self._original, *args, **kwargs)
        if not session.active:
            return original()
        if self._on_batch is None and session.traced is None:
            try:
                if _trains_on_batch(self._original):
                    models, optimizers = self._trained(args, kwargs)
                    self._on_batch = OnBatch(models, optimizers, session, self._count)
            except TraceError as error:
                session.fail(error)
                return original()
        if self._on_batch is not None:
            with self._on_batch.recording():
                return original()
        if session.traced is None:
            try:
                eager = not hasattr(self._original, "python_function")
                self._taken = TakenBatches.of(args, kwargs, eager=eager)
                program = self._program(args, kwargs)
            except TraceError as error:
                session.fail(error)
                return original()
            if not (self._was_done or all(map(is_built, program.models))):
                self._was_done = True
                return original()  # which builds what it calls; the next call begins the trace
            try:
                self._count.first = update_count(program.optimizers[0])
                session.begin(program, self._count.first)
            except Exception as error:
                session.fail(error)
                return original()
        if self._taken is None:
            position = self._count.take()
            if not session.wants(position.step, position.epoch):
                return original()
            return session.run(args, kwargs, position, original)
        return self._run_taken(self._taken, args, kwargs)

    def _run_taken(self, taken: TakenBatches, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do one step on the next batch of the iterator among the arguments."""
        session = self._session
        if not session.wants(self._count.next, self._count.epoch):
            self._count.take()
            return self._original(*args, **kwargs)
        try:
            batch = next(taken.iterator(args, kwargs))
        except (StopIteration, tf.errors.OutOfRangeError):
            return self._original(*args, **kwargs)  # which says that there is no more
        if self._fed is None:
            self._fed = FedStep(self._original, taken)
        original = functools.partial(self._fed, args, kwargs, batch)
        args, kwargs = taken.replaced(args, kwargs, batch)
        return session.run(args, kwargs, self._count.take(), original)

    def _watch_weights(self) -> None:
        """Have the weights kept that the last step left, before the program assigns others."""
        traced = self._session.traced
        if self._outside is None and traced is not None and traced.program.strategy is None:
            self._outside = AssignedOutside(traced.program.models, self._keep_weights)
            self._session.ending.callback(self._outside.close)

    def _keep_weights(self) -> None:
        self._session.keep_weights(self._count.next)

    @property
    def current_step(self) -> int | None:
        """The number of the last step, None before the first."""
        return self._count.last

    def close(self) -> None:
        """Record the weights after the last step, and finish the trace."""
        self._keep_weights()
        self._session.complete(self._count.next)

    def _trained(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return the models and optimizers of the step, those that it refers to by default."""
        function, owner = plain(self._original)
        found = list(_referred(function, owner, (*args, *kwargs.values())))
        named = _of_type(found, keras.Model)
        models = self._models or _outermost(named)
        optimizers = self._optimizers or _of_type(found, keras.Optimizer)
        if not optimizers:
            compiled = (*models, *named)
            optimizers = tuple(
                {
                    id(m.optimizer): m.optimizer for m in compiled if getattr(m, "optimizer", None)
                }.values()
            )
        for what, objects in (("models", models), ("optimizers", optimizers)):
            if not objects:
                msg = (
                    f"the training step '{getattr(function, '__name__', function)}' refers to no "
                    f"Keras {what}; pass them: tracer.wrap(train_step, {what}=[...]); "
                    "networks of tf.Module alone, and optimizers of tf.compat.v1, are not recorded"
                )
                raise TraceError(msg)
        return models, optimizers

    def _program(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program:
        models, optimizers = self._trained(args, kwargs)
        strategy = replica_strategy(models[0])
        eager = not hasattr(self._original, "python_function")
        reached = _referred(*plain(self._original), (*args, *kwargs.values())) if eager else ()
        body, taken, compiled = plain_body(self._original), self._taken, _compiled(self._original)
        if taken is not None:
            body = taken.body(body)
            if hasattr(self._original, "python_function"):
                spec = getattr(taken.iterator(args, kwargs), "element_spec", None)
                signature = [spec] if spec is not None and len(args) + len(kwargs) == 1 else None
                around = functools.partial(tf.function, input_signature=signature, autograph=False)
                compiled = dataclasses.replace(compiled, around=around)
        return Program(
            body=body,
            models=models,
            optimizers=optimizers,
            batch=batch_finder(models, parameter_names(*plain(self._original))),
            eager=eager,
            compiled=compiled,
            logs=_named_scalars,
            strategy=strategy,
            calls_strategy_run=strategy is not None,
            others=reached_variables(reached),
        )


def _referred(function: Any, owner: Any, arguments: Iterable[Any]) -> Iterable[Any]:
    """Yield what a function can reach by a name, and what is inside lists and mappings of that.

    What the functions of its own module that it calls can reach counts too.
    """
    yield from arguments
    if owner is not None:
        yield owner
        yield from getattr(owner, "__dict__", {}).values()
    waiting, seen = [function], set()
    while waiting:
        found = waiting.pop(0)
        if not inspect.isfunction(found) or id(found) in seen:
            continue
        seen.add(id(found))
        for value in _named_in(found):
            yield value
            if isinstance(value, (list, tuple)):
                yield from value
            elif isinstance(value, dict):
                yield from value.values()
            inner = getattr(value, "python_function", value) if callable(value) else None
            if getattr(inner, "__module__", None) == function.__module__:
                waiting.append(inner)


def _of_type(found: Iterable[Any], kind: type) -> tuple[Any, ...]:
    return tuple({id(value): value for value in found if isinstance(value, kind)}.values())


def _outermost(models: tuple[Any, ...]) -> tuple[Any, ...]:
    """Leave out models whose weights are all in another one, or in the same one once more."""
    weights = [frozenset(id(v) for v in model.weights) for model in models]
    return tuple(
        model
        for number, (model, own) in enumerate(zip(models, weights, strict=True))
        if not any(own < other for other in weights) and (not own or own not in weights[:number])
    )


_ON_BATCH: Final = "train_on_batch"


def _trains_on_batch(train_step: Any) -> bool:
    """Whether a Python function calls ``train_on_batch`` of a model, itself or in what it calls."""
    function, _ = plain(train_step)
    seen: set[int] = set()
    waiting = [function]
    while waiting:
        found = waiting.pop()
        found = getattr(found, "__func__", found)
        if getattr(found, "__name__", "") == _ON_BATCH:
            return True
        if not inspect.isfunction(found) or id(found) in seen:
            continue
        seen.add(id(found))
        if _ON_BATCH in _names_in(found.__code__):
            return True
        for value in _named_in(found):
            own = getattr(value, "__module__", None) == function.__module__
            if inspect.ismethod(value) or (own and inspect.isfunction(value)):
                waiting.append(value)
    return False


def _named_in(function: types.FunctionType) -> tuple[Any, ...]:
    """Return what a function names, itself or in a function inside of it, outside of both."""
    nonlocals = inspect.getclosurevars(function).nonlocals
    known = function.__globals__
    return (*nonlocals.values(), *(known[n] for n in _names_in(function.__code__) if n in known))


def _names_in(code: types.CodeType) -> tuple[str, ...]:
    inner = (_names_in(value) for value in code.co_consts if isinstance(value, types.CodeType))
    return tuple(dict.fromkeys(itertools.chain(code.co_names, *inner)))


def _compiled(train_step: Any) -> Compiled:
    if not hasattr(train_step, "python_function"):
        return Compiled(lambda step: step, lambda around: around)
    settings = function_settings(train_step)
    return Compiled(
        functools.partial(
            tf.function,
            jit_compile=settings.jit_compile,
            reduce_retracing=settings.reduce_retracing,
            autograph=False,
        ),
        functools.partial(
            tf.function,
            input_signature=train_step.input_signature,
            reduce_retracing=settings.reduce_retracing,
            autograph=False,
        ),
    )


def _named_scalars(result: Any) -> Any:
    return result if isinstance(result, dict) else None
