"""The one shield in front of names of Keras and TensorFlow that are not documented.

What the tracer needs and the two libraries do not promise is reached by a function here, and
nowhere else. Each name (:mod:`steptrace_tracer.private_names`) is looked for whenever it is used.
Where a version does not have it, the function does what can be done without it, and notes the name:
the recording warns of it and says it in the trace, and the training continues.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.private_names import (
    AUTOGRAPH,
    BUILD,
    CALLS,
    COMPILED_LOSS,
    COMPILED_WITH,
    CONSUMERS,
    EAGER_DRAWS,
    ITERATION,
    JIT_COMPILE,
    LOGITS,
    LOSSES,
    MASK,
    METHOD_OWNER,
    OPTIMIZER_WEIGHTS,
    RAW_OPS,
    REDUCE_RETRACING,
    SETTINGS,
    STEP_FUNCTION,
    STRATEGY,
    SUBLAYERS,
    MissingNameError,
    PrivateName,
    note,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from steptrace_schema.names import Kind


_ABSENT: Final = object()
_APART: Final = 6502837  # a seed that no training has reason to use


def _read(name: PrivateName, holder: Any, otherwise: Any = None) -> Any:
    found = getattr(holder, name.name, _ABSENT)
    if found is not _ABSENT:
        return found
    note(name)
    return otherwise


def sublayers(layer: Any) -> list[Any]:
    """Return the layers that `layer` has itself; without the name, those of a model.

    An operation that is no layer has none.
    """
    if not isinstance(layer, keras.Layer):
        return []
    flatten = _read(SUBLAYERS, layer)
    if flatten is None:
        return list(getattr(layer, "layers", ()))
    return list(flatten(include_self=False, recursive=False))


def own_variables(layer: Any) -> list[Any]:
    """Return the weights of `layer` that are not of a layer inside it."""
    if not isinstance(layer, keras.Layer):
        return []
    inner = {id(weight) for child in sublayers(layer) for weight in child.weights}
    return [weight for weight in layer.weights if id(weight) not in inner]


def calls(layer: Any) -> list[list[Any]]:
    """Return the tensors that `layer` is called with, call by call; none where they are unknown."""
    return [list(node.input_tensors) for node in _read(CALLS, layer, ())]


def results(operation: Any) -> list[tuple[list[Any], list[Any]]]:
    """Return the tensors that an operation is called with and those it returns, call by call."""
    return [
        (list(node.input_tensors), list(node.output_tensors))
        for node in _read(CALLS, operation, ())
    ]


def build(model: Any, batch: Any) -> None:
    """Build a model with its losses and metrics, as Keras does before the first step.

    Its optimizer is left as it is: the values of its slots depend on what builds it.

    Raises
    ------
    MissingNameError
        If that is not possible.
    """
    symbolic_build = _read(BUILD, model)
    if symbolic_build is None:
        raise MissingNameError(str(BUILD))
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        symbolic_build(data_batch=batch)
        return
    object.__setattr__(optimizer, "build", lambda _: None)  # past what Keras tracks
    try:
        symbolic_build(data_batch=batch)
    finally:
        object.__delattr__(optimizer, "build")


def weighted_losses(model: Any) -> list[tuple[Any, Any]]:
    """Return the losses that `model` was compiled with, and their weights, None without.

    Raises
    ------
    MissingNameError
        If they are unknown.
    """
    compiled = _read(COMPILED_LOSS, model, _ABSENT)
    if compiled is _ABSENT:
        raise MissingNameError(str(COMPILED_LOSS))
    flat = () if compiled is None else _read(LOSSES, compiled, _ABSENT)
    if flat is _ABSENT or any(len(entry) != 4 for entry in flat or ()):
        note(LOSSES)
        raise MissingNameError(str(LOSSES))
    return [(loss, weight) for _, loss, weight, _ in flat or () if loss is not None]


def compiled_with(model: Any) -> list[Any]:
    """Return what `model` was compiled with, as it was given, and what may be set afterwards."""
    given: dict[str, Any] = {}
    if getattr(model, "compiled", False):
        compiled = getattr(_read(COMPILED_WITH, model), "config", None)
        given = {"loss": getattr(model, "loss", None)} if compiled is None else dict(compiled)
        given.pop("optimizer", None)
    names = ("jit_compile", "steps_per_execution", "unrolled_steps_per_execution")
    return [given, [repr(getattr(model, name, None)) for name in names]]


def loss_settings(loss: Any) -> Any:
    """Return what a loss gives its function beside targets and outputs; None where unknown."""
    return _read(SETTINGS, loss) if hasattr(loss, "fn") else None


def logits_of(output: Any) -> Any:
    """Return the logits that an output of softmax or sigmoid is computed from, None without."""
    return getattr(output, LOGITS.name, None)


@functools.cache
def _has_logits(name: str) -> bool:
    with tf.init_scope():
        return hasattr(keras.activations.softmax(tf.zeros((1, 2))), name)


def missing_logits() -> str | None:
    """Return why no output leads to its logits, which no single tensor shows; None if they do."""
    if _has_logits(LOGITS.name):
        return None
    note(LOGITS)
    return str(LOGITS)


def mask_of(output: Any) -> Any:
    """Return what is true where a mask leaves a position of an output in, None without a mask."""
    return getattr(output, MASK.name, None)


@functools.cache
def _has_mask(name: str) -> bool:
    with tf.init_scope():
        return hasattr(keras.layers.Masking()(tf.zeros((1, 1, 1))), name)


def note_what_tensors_lack(kinds: Collection[Kind]) -> None:
    """Note the names that these kinds need of outputs, and that no output has.

    No single output shows it. Within a graph it could not be found out.
    """
    if "activation_gradients" in kinds:
        missing_logits()
    if "inputs" in kinds and not _has_mask(MASK.name):
        note(MASK)


def strategy_of(model: Any) -> Any:
    """Return the ``tf.distribute.Strategy`` that `model` was made in."""
    found = _read(STRATEGY, model)
    return tf.distribute.get_strategy() if found is None else found


def update_count(optimizer: Any) -> int:
    """Return how many steps the optimizer has done; those that only accumulate count as well."""
    return int(np.asarray(update_counter(optimizer)))


def update_counter(optimizer: Any) -> Any:
    """Return what counts the steps that the optimizer does, a variable or a tensor.

    Steps that only accumulate count as well. Steps that a loss scale has it skip do not.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if inner.gradient_accumulation_steps:
        counter = ITERATION.name.split("'")[1]
        for variable in inner.variables:
            if variable.name == counter:
                return variable
        note(ITERATION)
    return inner.iterations


def optimizer_weights(optimizer: Any) -> list[Any]:
    """Return the weights that a built optimizer has slots for, in its own order.

    Raises
    ------
    MissingNameError
        If they are unknown.
    """
    found = _read(OPTIMIZER_WEIGHTS, optimizer)
    if found is None:
        raise MissingNameError(str(OPTIMIZER_WEIGHTS))
    return list(found)


def train_on(train_function: Any, data: Any) -> Any:
    """Have Keras' own train function do one step on `data`; return its logs.

    It is undocumented what it takes beside an iterator of a data set. A Python function takes any
    iterator; where a version has a compiled one, it takes nothing else.
    """
    if hasattr(train_function, "python_function"):
        return train_function(iter(tf.data.Dataset.from_tensors(data)))
    return train_function(iter([data]))


def built_step(train_function: Any) -> tuple[Any, Any] | None:
    """Return the ``train_step`` that a train function was built with, and its ``tf.function``.

    The latter is None where the step runs eagerly. Returns None where the function is not Keras'
    own, or does not show them.
    """
    if not inspect.isfunction(train_function) or not _is_of_keras(train_function):
        return None
    step: Any = inspect.getclosurevars(train_function).nonlocals.get("one_step_on_data")
    while not hasattr(step, "python_function") and hasattr(step, "__wrapped__"):
        step = step.__wrapped__
    python = inspect.unwrap(getattr(step, "python_function", step)) if step is not None else None
    found = inspect.getclosurevars(python).nonlocals if inspect.isfunction(python) else {}
    if STEP_FUNCTION.name not in found:
        note(STEP_FUNCTION)
        return None
    return found[STEP_FUNCTION.name], step if hasattr(step, "python_function") else None


def _is_of_keras(function: Any) -> bool:
    return str(function.__module__).partition(".")[0] == "keras"


@dataclasses.dataclass(frozen=True)
class FunctionSettings:
    """How a ``tf.function`` is compiled: the arguments that it was made with."""

    jit_compile: bool | None
    reduce_retracing: bool
    autograph: bool


def function_settings(function: Any) -> FunctionSettings:
    """Return how `function`, a ``tf.function``, is compiled.

    Raises
    ------
    MissingNameError
        If it is unknown whether XLA compiles it: in another way its results would differ.
    """
    jit_compile = _read(JIT_COMPILE, function, _ABSENT)
    if jit_compile is _ABSENT:
        raise MissingNameError(str(JIT_COMPILE))
    return FunctionSettings(
        jit_compile,
        bool(_read(REDUCE_RETRACING, function, otherwise=False)),
        bool(_read(AUTOGRAPH, function, otherwise=True)),
    )


def method_owner(owner: Any) -> Any:
    """Return the object of a method: TensorFlow binds compiled ones to a stand-in for it.

    Raises
    ------
    MissingNameError
        If it is unknown.
    """
    if type(owner).__module__.partition(".")[0] != "tensorflow" or isinstance(owner, tf.Module):
        return owner
    found = _read(METHOD_OWNER, owner)
    if found is None:
        raise MissingNameError(str(METHOD_OWNER))
    return found


def is_keras_own(kind: Any) -> bool:
    """Whether a class or a function is one of Keras itself, which does what it documents."""
    return str(kind.__module__).partition(".")[0] == "keras"


def users(tensor: Any) -> list[Any] | None:
    """Return the operations that use a tensor of a graph, None where that is not known."""
    consumers = _read(CONSUMERS, tensor)
    return None if consumers is None else list(consumers())


def raw_operation(kind: str) -> Any:
    """Return the function of ``tf.raw_ops`` that computes operations of a type.

    Raises
    ------
    MissingNameError
        If there is none.
    """
    found = getattr(tf.raw_ops, kind, None)
    if found is None:
        missing = dataclasses.replace(RAW_OPS, name=kind)
        note(missing)
        raise MissingNameError(str(missing))
    return found


@contextmanager
def draws_apart() -> Iterator[None]:
    """Have random operations outside of compiled functions draw what the training does not miss."""
    from tensorflow.python.eager import context

    holder = context.context()
    own = None if context.global_seed() is None else _read(EAGER_DRAWS, holder)
    if own is None:
        yield
        return
    # Not put back to an earlier state: the kernel of an operation with the same seed goes on.
    setattr(holder, EAGER_DRAWS.name, random.Random(_APART))
    try:
        yield
    finally:
        setattr(holder, EAGER_DRAWS.name, own)
