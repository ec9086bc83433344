"""Rebinding names while a training step is traced, so that its tensors can be seen.

Only names are rebound, for as long as one step is traced (or, eagerly, runs): each layer's
``call``, the models' ``call``, what losses compute of each sample, ``scale_loss`` and ``apply`` of
the optimizers, and methods of ``tf.GradientTape`` and of variables. Everything is put back.
"""

from __future__ import annotations

import functools
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.capture.taps import OUTPUT_KINDS
from steptrace_tracer.keras_private import mask_of, optimizer_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence, Set

    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.capture.program import Program
    from steptrace_tracer.capture.tap_collector import TapCollector

    CurrentCollector = Callable[[], TapCollector | None]


_ONE_AT_A_TIME = threading.RLock()
"""Held while a step is traced or runs eagerly: what one shows is not for another's collector."""


class _Rebound:
    """An attribute that something stands in for, and what it was before."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name
        own = vars(owner)
        self._had, self._before = name in own, own.get(name)
        self._value = getattr(owner, name)
        self.wraps: list[tuple[object, Callable[[Any], Any]]] = []

    def bind(self) -> None:
        """Bind what all wrappers make of the attribute, or give it back where there is none."""
        is_type = isinstance(self.owner, type)
        setter = type.__setattr__ if is_type else object.__setattr__
        if self.wraps:
            value = self._value
            for _, wrap in self.wraps:
                value = wrap(value)
            setter(self.owner, self.name, value)
        elif self._had:
            setter(self.owner, self.name, self._before)
        else:
            (type.__delattr__ if is_type else object.__delattr__)(self.owner, self.name)


_REBOUND: dict[tuple[int, str], _Rebound] = {}
_REBINDING = threading.Lock()


@contextmanager
def rebound(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Replace attribute `name` of `owner` by ``wrap(attribute)`` for a while.

    Keras tracks what is assigned to a layer; this goes past that, and leaves no trace in the
    instance afterwards. Several may do so at a time, in several threads, and end in any order.
    """
    key, mark = (id(owner), name), object()
    with _REBINDING:
        found = _REBOUND.get(key)
        if found is None:
            found = _REBOUND[key] = _Rebound(owner, name)
        found.wraps.append((mark, wrap))
        found.bind()
    try:
        yield
    finally:
        with _REBINDING:
            found.wraps = [each for each in found.wraps if each[0] is not mark]
            if not found.wraps:
                del _REBOUND[key]
            found.bind()


@contextmanager
def tapped(
    program: Program,
    policy: Policy,
    layers: Sequence[Any],
    in_loops: Set[int],
    current: CurrentCollector,
) -> Iterator[None]:
    """Show everything that a step does inside the context to the collector of its replica.

    Parameters
    ----------
    program
        The step.
    policy
        What is wanted.
    layers, in_loops
        The layers of its models, and the ``id`` of those that run inside a loop of the graph.
    current
        Returns the collector of the replica that is running, None outside of one.
    """
    models = (*program.models, *(layer for layer in layers if isinstance(layer, keras.Model)))
    with _ONE_AT_A_TIME, ExitStack() as stack:
        if set(OUTPUT_KINDS) & set(policy.kinds):
            for layer in layers:
                if id(layer) not in in_loops:
                    stack.enter_context(rebound(layer, "call", _see_output(layer, current)))
        if "inputs" in policy.kinds:
            stack.enter_context(rebound(tf.GradientTape, "__enter__", _see_enter(current)))
            stack.enter_context(rebound(tf.GradientTape, "__exit__", _see_exit(current)))
            for model in models:
                if id(model) not in in_loops:
                    stack.enter_context(rebound(model, "call", _see_input(model, current)))
        stack.enter_context(rebound(tf.GradientTape, "gradient", _see_gradient(current)))
        stack.enter_context(rebound(tf.GradientTape, "jacobian", _see_jacobian(current)))
        if "inputs" in policy.kinds:
            stack.enter_context(rebound(keras.losses.Loss, "__call__", _see_loss(current)))
        for optimizer in program.optimizers:
            stack.enter_context(rebound(optimizer, "scale_loss", _see_scale(current)))
            stack.enter_context(rebound(optimizer, "apply", _see_apply(optimizer, current)))
        for kind in {type(weight.value) for model in program.models for weight in model.weights}:
            for name in ("assign", "assign_add", "assign_sub"):
                stack.enter_context(rebound(kind, name, _see_assign(current)))
        yield


def _see_output(layer: Any, current: CurrentCollector) -> Callable[[Any], Any]:
    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def keep(output: Any) -> None:
        if (collector := current()) is not None:
            try:
                collector.keep_output(layer, output)
            except Exception as error:
                collector.taps.error = collector.taps.error or error

    def wrap(call: Any) -> Any:
        # AutoGraph takes it for what it stands for, where a compiled step calls the layer.
        @functools.wraps(call)
        def seen(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            keep(output)
            return output

        return seen

    return wrap


def _see_input(model: Any, current: CurrentCollector) -> Callable[[Any], Any]:
    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def watch(inputs: Any) -> None:
        if (collector := current()) is not None:
            collector.watch(model, inputs)

    def wrap(call: Any) -> Any:
        @functools.wraps(call)
        def seen(*args: Any, **kwargs: Any) -> Any:
            watch(args[0] if args else kwargs.get("inputs"))
            return call(*args, **kwargs)

        return seen

    return wrap


def _see_enter(current: CurrentCollector) -> Callable[[Any], Any]:
    def wrap(enter: Any) -> Any:
        def seen(tape: Any) -> Any:
            if (collector := current()) is not None:
                collector.enter(tape)
            return enter(tape)

        return seen

    return wrap


def _see_exit(current: CurrentCollector) -> Callable[[Any], Any]:
    def wrap(leave: Any) -> Any:
        def seen(tape: Any, *args: Any) -> Any:
            if (collector := current()) is not None:
                collector.leave(tape)
            return leave(tape, *args)

        return seen

    return wrap


def _see_gradient(current: CurrentCollector) -> Callable[[Any], Any]:
    def wrap(gradient: Any) -> Any:
        def seen(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
            def ask(target: Any, sources: Any, **keywords: Any) -> Any:
                return gradient(tape, target, sources, *args, **keywords)

            if (collector := current()) is None:
                return ask(target, sources, **kwargs)
            return collector.differentiate(ask, target, sources, kwargs)

        return seen

    return wrap


def _see_jacobian(current: CurrentCollector) -> Callable[[Any], Any]:
    def wrap(jacobian: Any) -> Any:
        def seen(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
            compute = functools.partial(jacobian, tape, target, sources, *args, **kwargs)
            if (collector := current()) is None:
                return compute()
            return collector.jacobian(compute, target, sources)

        return seen

    return wrap


def _see_loss(current: CurrentCollector) -> Callable[[Any], Any]:
    def wrap(compute: Any) -> Any:
        def seen(loss: Any, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            collector = current()
            if collector is None:
                return compute(loss, y_true, y_pred, sample_weight)

            def keeping(call: Any) -> Any:
                def kept(*args: Any, **kwargs: Any) -> Any:
                    values = call(*args, **kwargs)
                    collector.keep_loss(loss, y_true, values, sample_weight, mask_of(y_pred))
                    return values

                return kept

            with rebound(loss, "call", keeping):
                return compute(loss, y_true, y_pred, sample_weight)

        return seen

    return wrap


def _see_apply(optimizer: Any, current: CurrentCollector) -> Callable[[Any], Any]:
    def wrap(apply: Any) -> Any:
        # AutoGraph takes it for what it stands for, where a compiled step calls it itself.
        @functools.wraps(apply)
        def seen(grads: Any, trainable_variables: Any = None) -> Any:
            collector = current()
            if collector is not None:
                grads = list(grads)  # may be a generator, which gives each gradient once
                variables = trainable_variables
                inner = getattr(optimizer, "inner_optimizer", optimizer)
                if variables is None:
                    variables = optimizer_weights(inner) if inner.built else ()
                else:
                    variables = trainable_variables = list(variables)
                collector.apply(optimizer, grads, variables)
            return apply(grads, trainable_variables)

        return seen

    return wrap


def _see_assign(current: CurrentCollector) -> Callable[[Any], Any]:
    def wrap(assign: Any) -> Any:
        def seen(variable: Any, *args: Any, **kwargs: Any) -> Any:
            if (collector := current()) is not None:
                collector.assign(variable)
            return assign(variable, *args, **kwargs)

        return seen

    return wrap


def _see_scale(current: CurrentCollector) -> Callable[[Any], Any]:
    def wrap(scale_loss: Any) -> Any:
        @functools.wraps(scale_loss)
        def seen(loss: Any) -> Any:
            scaled = scale_loss(loss)
            collector = current()
            if collector is not None and scaled is not loss:
                collector.keep_scale(scaled, scale_loss(tf.ones((), tf.float32)))
            return scaled

        return seen

    return wrap
