"""Custom training loops: a step function that is recorded whenever it is called."""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.errors import TraceError
from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.capture.names import leaves
from steptrace_tracer.capture.program import (
    Batch,
    Compiled,
    Program,
    replica_strategy,
)
from steptrace_tracer.keras_private import function_settings, method_owner, update_count
from steptrace_tracer.session.on_batch import OnBatch
from steptrace_tracer.session.step_count import StepCount

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from steptrace_tracer.session.session import Session


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
    """

    def __init__(
        self,
        train_step: Callable[..., Any],
        models: tuple[Any, ...],
        optimizers: tuple[Any, ...],
        session: Session,
        epoch: Callable[[], int],
    ) -> None:
        functools.update_wrapper(self, train_step)
        self._original = train_step
        self._models = models
        self._optimizers = optimizers
        self._session = session
        self._count = StepCount(epoch)
        self._on_batch: OnBatch | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do one step; return what the user's function returns."""
        session = self._session
        original = functools.partial(self._original, *args, **kwargs)
        if not session.active:
            return original()
        if self._on_batch is None and _trains_on_batch(self._original):
            try:
                models, optimizers = self._trained(args, kwargs)
            except TraceError as error:
                session.fail(error)
                return original()
            self._on_batch = OnBatch(models, optimizers, session, self._count)
        if self._on_batch is not None:
            with self._on_batch.recording():
                return original()
        if session.traced is None:
            try:
                program = self._program(args, kwargs)
            except TraceError as error:
                session.fail(error)
                return original()
            if not all(model.built for model in program.models):
                return original()  # which builds them; the next call begins the trace
            try:
                self._count.first = update_count(program.optimizers[0])
                session.begin(program, self._count.first)
            except Exception as error:
                session.fail(error)
                return original()
        position = self._count.take()
        if not session.wants(position.step, position.epoch):
            return original()
        return session.run(args, kwargs, position, original)

    @property
    def current_step(self) -> int | None:
        """The number of the last step, None before the first."""
        return self._count.last

    def close(self) -> None:
        """Record the weights after the last step, and finish the trace."""
        self._session.keep_weights()
        self._session.complete(self._count.next)

    def _trained(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return the models and optimizers of the step, those that it refers to by default."""
        function, owner = _plain(self._original)
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
                    f"Keras {what}; pass them: tracer.wrap(train_step, {what}=[...])"
                )
                raise TraceError(msg)
        return models, optimizers

    def _program(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program:
        models, optimizers = self._trained(args, kwargs)
        strategy = replica_strategy(models[0])
        if not tf.executing_eagerly():
            msg = (
                "the wrapped step is called while another function is compiled, or on a replica; "
                "wrap the outermost function of the step"
            )
            raise TraceError(msg)
        return Program(
            body=_body(self._original),
            models=models,
            optimizers=optimizers,
            batch=functools.partial(_batch_for, models),
            eager=not hasattr(self._original, "python_function"),
            compiled=_compiled(self._original),
            logs=_named_scalars,
            strategy=strategy,
            calls_strategy_run=strategy is not None,
        )


def batch_of_arguments(
    *args: Any, input_names: Collection[str | None] = (), **kwargs: Any
) -> Batch:
    """Return the batch among the arguments of a step.

    The first argument that holds tensors is ``x``, or ``(x, y)`` where it is a tuple or list of
    two or more; otherwise the second one is ``y``. Of one mapping, what is called as the model's
    inputs are is ``x`` and the rest ``y``; or else what is called ``label``, ``target`` or ``y``
    is ``y``.

    Examples
    --------
    >>> batch_of_arguments(np.zeros(3), np.ones(3)).y
    array([1., 1., 1.])
    >>> batch_of_arguments({"image": np.zeros(3), "label": np.ones(3)}).y
    array([1., 1., 1.])
    """
    data = [value for value in (*args, *kwargs.values()) if _holds_tensors(value)]
    if not data:
        return Batch()
    if isinstance(data[0], (tuple, list)) and len(data[0]) > 1:
        return Batch(*data[0][:2])
    if len(data) == 1 and isinstance(data[0], Mapping):
        return _batch_of_mapping(data[0], input_names)
    return Batch(*data[:2])


_ON_BATCH: Final = "train_on_batch"
_TARGETS: Final = re.compile(r"y|y_true|(.*_)?(labels?|targets?)")
"""Names of targets in a mapping."""


def _batch_of_mapping(data: Mapping[str, Any], input_names: Collection[str | None]) -> Batch:
    """Tell inputs from targets by the names of the model's inputs, or else by usual names."""
    if set(input_names) < data.keys():
        inputs = set(input_names)
    else:
        inputs = {name for name in data if not _TARGETS.fullmatch(str(name).lower())}
    x = {name: value for name, value in data.items() if name in inputs}
    y = {name: value for name, value in data.items() if name not in inputs}
    if not x or not y:
        return Batch(data)
    return Batch(*(next(iter(part.values())) if len(part) == 1 else part for part in (x, y)))


def _batch_for(models: tuple[Any, ...], *args: Any, **kwargs: Any) -> Batch:
    names = {getattr(tensor, "name", None) for tensor in getattr(models[0], "inputs", None) or ()}
    return batch_of_arguments(*args, input_names=names, **kwargs)


def _holds_tensors(value: Any) -> bool:
    found = [leaf for _, leaf in leaves(value)]
    return bool(found) and all(
        isinstance(leaf, tf.distribute.DistributedValues)
        or (hasattr(leaf, "dtype") and hasattr(leaf, "shape"))
        for leaf in found
    )


def _referred(function: Any, owner: Any, arguments: Iterable[Any]) -> Iterable[Any]:
    """Yield what a function can reach by a name, and what is inside lists and mappings of that."""
    yield from arguments
    if owner is not None:
        yield owner
        yield from getattr(owner, "__dict__", {}).values()
    if inspect.isfunction(function):
        names = inspect.getclosurevars(function)
        for value in (*names.nonlocals.values(), *names.globals.values()):
            yield value
            if isinstance(value, (list, tuple)):
                yield from value
            elif isinstance(value, dict):
                yield from value.values()
            elif inspect.isfunction(value) and value.__module__ == function.__module__:
                inner = inspect.getclosurevars(value)
                yield from (*inner.nonlocals.values(), *inner.globals.values())


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


def _plain(train_step: Any) -> tuple[Any, Any]:
    """Return the Python function inside a step, and the object that it is a method of, if any."""
    function = inspect.unwrap(getattr(train_step, "python_function", train_step))
    owner = getattr(function, "__self__", None)
    return getattr(function, "__func__", function), method_owner(owner)


def _trains_on_batch(train_step: Any) -> bool:
    """Whether a Python function calls ``train_on_batch`` of a model, itself or in what it calls."""
    function, _ = _plain(train_step)
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
        names = inspect.getclosurevars(found)
        for value in (*names.nonlocals.values(), *names.globals.values()):
            own = getattr(value, "__module__", None) == function.__module__
            if inspect.ismethod(value) or (own and inspect.isfunction(value)):
                waiting.append(value)
    return False


def _names_in(code: types.CodeType) -> set[str]:
    inner = (_names_in(value) for value in code.co_consts if isinstance(value, types.CodeType))
    return set(code.co_names).union(*inner)


def _body(train_step: Any) -> Callable[..., Any]:
    function, owner = _plain(train_step)
    is_compiled = hasattr(train_step, "python_function")
    if is_compiled and function_settings(train_step).autograph and _has_source(function):
        function = tf.autograph.to_graph(function)
    body: Callable[..., Any] = function if owner is None else functools.partial(function, owner)
    return body


def _has_source(function: Any) -> bool:
    """Whether TensorFlow can, and so does, rewrite Python's loops and conditions."""
    try:
        inspect.getsource(function)
    except (OSError, TypeError):
        return False
    return True


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
