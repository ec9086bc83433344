"""What is traced: a training step, the models and optimizers in it, and how it is compiled."""

from __future__ import annotations

import dataclasses
import functools
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.format.paths import safe_path
from steptrace_schema.names import X, Y
from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.capture.names import joined
from steptrace_tracer.capture.plain_step import plain_body
from steptrace_tracer.keras_private import function_settings, strategy_of, update_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from steptrace_tracer.capture.frozen_step import FrozenStep


@dataclasses.dataclass(frozen=True)
class Batch:
    """What a step is trained on.

    Attributes
    ----------
    x, y
        Inputs and targets, each a tensor or a structure of tensors; None where there are none.
    others
        Further arguments of the step, by name.
    """

    x: Any = None
    y: Any = None
    others: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def parts(self) -> Iterator[tuple[str, Any]]:
        """Yield inputs, targets, and further arguments, each with where it is in ``inputs``."""
        yield X, self.x
        yield Y, self.y
        for name, structure in self.others.items():
            yield joined(X, safe_path(name).replace("/", "_")), structure

    def map(self, function: Callable[[Any], Any]) -> Batch:
        """Return the batch with a function applied to each tensor."""
        done = partial(tf.nest.map_structure, function)
        x, y = (None if part is None else done(part) for part in (self.x, self.y))
        return Batch(x, y, {name: done(part) for name, part in self.others.items()})


@dataclasses.dataclass(frozen=True)
class Program:
    """One training step, to be recorded each time it runs.

    Attributes
    ----------
    body
        The step as a Python function; it differentiates a loss by ``tf.GradientTape.gradient``.
    models
        The models that it trains, the main one first.
    optimizers
        The optimizers that it uses, the main one, which counts the steps, first.
    batch
        Finds the batch in the arguments of `body`.
    eager
        Whether the step runs operation by operation.
    compiled
        Compiles a function of the arguments of `body`; called twice, with the step and with what
        is done around it.
    applies_last
        Whether `body` applies the gradients once, and reads no weights after that.
    logs
        Finds named scalars, to record as metrics, in the result of `body`.
    strategy
        The ``tf.distribute.Strategy`` that runs the step on several replicas; None for one.
    calls_strategy_run
        Whether `body` itself calls ``strategy.run``; otherwise it is what is run on each replica.
    can_repeat
        Whether the step can be done without the tracer from a batch alone, by the program that the
        training runs.
    frozen
        What Keras keeps of the step from one ``fit`` to the next; None where nothing is kept.
    trained
        The model whose step it is, where that is not the main one.
    others
        More variables that an eager step can reach, such as those of its own metrics. What a
        compiled step uses is known without.
    """

    body: Callable[..., Any]
    models: tuple[Any, ...]
    optimizers: tuple[Any, ...]
    batch: Callable[..., Batch]
    eager: bool
    compiled: Compiled
    logs: Callable[[Any], Any]
    strategy: Any = None
    calls_strategy_run: bool = False
    can_repeat: bool = True
    applies_last: bool = False
    frozen: FrozenStep | None = None
    trained: Any = None
    others: tuple[Any, ...] = ()

    @property
    def compiled_model(self) -> Any:
        """The model whose compiled losses the step computes."""
        return self.models[0] if self.trained is None else self.trained

    def variables(self) -> list[Any]:
        """Return the variables of the models, their metrics, the optimizers, and the others."""
        found = [
            *(v for model in self.models for v in (*model.variables, *model.metrics_variables)),
            *(v for optimizer in self.optimizers for v in optimizer.variables),
        ]
        return [*(variable.value for variable in found), *self.others]

    def wait(self) -> None:
        """Wait until a device has done the steps that it was given: some work for themselves."""
        weights = [weight for model in self.models for weight in model.trainable_weights]
        if weights:
            np.asarray(min(weights, key=lambda weight: math.prod(weight.shape)))

    def update_count(self) -> int:
        """Return how many updates all optimizers have done."""
        return sum(map(update_count, self.optimizers))


@dataclasses.dataclass(frozen=True)
class Compiled:
    """How the two functions of a step are compiled.

    Attributes
    ----------
    step, around
        ``tf.function`` with the settings of the step itself, and of what is done around it.
    signature
        What distinguishes `around` of the same step in two fits.
    """

    step: Callable[[Any], Any]
    around: Callable[[Any], Any]
    signature: str = ""


def fit_program(model: Any, spec: Any, frozen: FrozenStep) -> Program:
    """Return the step of ``model.fit``.

    Parameters
    ----------
    model
        A compiled Keras model.
    frozen
        What its train function was built with.
    spec
        The ``element_spec`` of its data set, None where it has none.
    """
    # As Keras does it: one function inside another, with the signature of the data set, so that
    # the same program is compiled. A train_step may be a third one, in which nothing is seen.
    body, jit_compile = frozen.body, frozen.jit_compile
    if hasattr(body, "python_function"):
        jit_compile = jit_compile or function_settings(body).jit_compile
        body = body if frozen.eager else plain_body(body)
    compiled = Compiled(
        functools.partial(
            tf.function, reduce_retracing=True, jit_compile=jit_compile, autograph=False
        ),
        functools.partial(
            tf.function,
            input_signature=None if spec is None else [spec],
            reduce_retracing=True,
            autograph=False,
        ),
        repr(spec),
    )
    others = (value for value in vars(model).values() if isinstance(value, keras.Optimizer))
    optimizers = {id(found): found for found in (model.optimizer, *others)}
    reached = (model, *vars(model).values()) if frozen.eager else ()
    strategy = replica_strategy(model)
    return Program(
        body=body,
        models=(model,),
        optimizers=tuple(optimizers.values()),
        batch=batch_of_data,
        eager=frozen.eager,
        compiled=compiled,
        logs=lambda logs: logs,
        strategy=strategy,
        # The function of Keras for several replicas compiles another program where it is handed
        # single batches as they are.
        can_repeat=strategy is None,
        frozen=frozen,
        applies_last=type(model).train_step is keras.Model.train_step,
        others=reached_variables(reached),
    )


def reached_variables(found: Iterable[Any]) -> tuple[Any, ...]:
    """Return the variables that are among things of any kind, or inside of them."""
    kept: dict[int, Any] = {}
    for thing in found:
        own: Iterable[Any] = ()
        if isinstance(thing, keras.Layer | keras.Metric | keras.Optimizer):
            own = thing.variables
        elif isinstance(thing, keras.random.SeedGenerator | tf.random.Generator):
            own = (thing.state,)
        elif isinstance(thing, keras.Variable | tf.Variable):
            own = (thing,)
        for variable in own:
            value = variable.value if isinstance(variable, keras.Variable) else variable
            kept[id(value)] = value
    return tuple(kept.values())


def replica_strategy(model: Any) -> Any:
    """Return the strategy that spreads `model` over replicas, None where there is only one."""
    found = strategy_of(model)
    return found if found.num_replicas_in_sync > 1 else None


def batch_of_data(data: Any) -> Batch:
    """Return the batch in an element of a data set: ``x``, ``(x, y)`` or ``(x, y, weights)``."""
    if not isinstance(data, tuple):
        return Batch(data)
    return Batch(*data[:2])
