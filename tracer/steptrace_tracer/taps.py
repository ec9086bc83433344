"""Tapping a training step while it is being traced, without changing what it computes.

Only names are rebound, for as long as one step is traced (or, eagerly, runs): each layer's
``call``, the model's ``call``, and ``tf.GradientTape.gradient``. The graph gets no operation
between the existing ones; the one backward pass that the step does anyway is asked for more of its
results.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from steptrace_schema.attributes import Missing, Policy
from steptrace_schema.names import OUTPUT, X_GRADIENT, Kind
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.naming import Names, inside_recurrent, joined, leaves, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Set

_LOGITS = "logits"

_NO_GRADIENT = "the loss does not depend on this tensor"
_FROM_LOGITS = (
    "the loss is computed from the layer's logits; their gradient is recorded as 'logits' beside it"
)
_IN_A_LOOP = "the layer runs inside a loop of the graph, where its tensors cannot be returned"
_NOT_CALLED = "the layer is not called in the training step"
_NOT_FLOATING = "the input is not floating point, so the loss has no gradient with respect to it"
NOT_NUMBERS = "it is not a dense tensor of numbers"
NOT_SAMPLES = "its first dimension does not count the samples of the batch"
_OUTPUT_KINDS: tuple[Kind, ...] = ("activations", "activation_gradients")


@dataclasses.dataclass
class Taps:
    """The tensors of one step, ``kind/path`` to tensor, and what is missing with its reason."""

    tensors: dict[str, Any] = dataclasses.field(default_factory=dict)
    missing: dict[tuple[Kind, str], str] = dataclasses.field(default_factory=dict)
    rows: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Path of each output to its extent along the first dimension, over the whole batch."""
    target: Any = None
    """What the step differentiated: the loss, times the loss scale if there is one."""
    scale: Any = None
    """What the optimizer multiplied the loss by, float32; None where it did not."""
    error: Exception | None = None
    """The first failure of a tap. The step itself goes on, so that it need not be done again."""

    def add(self, kind: Kind, path: str, tensor: Any) -> None:
        """Keep one tensor."""
        self.tensors[f"{kind}/{path}"] = tensor

    def lacks(self, kind: Kind, path: str, reason: str) -> None:
        """Say why a tensor cannot be kept."""
        self.missing[kind, path] = reason

    def count_rows(self) -> Any:
        """Return the values of :attr:`rows` as one tensor."""
        return tf.stack([tf.cast(n, tf.int64) for n in self.rows.values()] or [tf.int64.max])

    def misfits(self, counts: Iterable[int], samples: int) -> dict[tuple[Kind, str], str]:
        """Return which outputs have other rows than the `samples` of the batch, with the reason.

        Only running the step shows it: while it is traced, the size of a batch is unknown.
        """
        return {
            (kind, path): NOT_SAMPLES
            for path, count in zip(self.rows, counts, strict=False)
            if count != samples
            for kind in _OUTPUT_KINDS
            if f"{kind}/{path}" in self.tensors
        }

    def missing_entries(self) -> tuple[Missing, ...]:
        """Return what is missing, as the trace lists it."""
        return as_missing(self.missing)


def as_missing(reasons: Mapping[tuple[Kind, str], str]) -> tuple[Missing, ...]:
    """Return reasons by kind and path in the form in which a trace lists them."""
    return tuple(
        Missing(kind=kind, path=path, reason=reason) for (kind, path), reason in reasons.items()
    )


@contextmanager
def rebound(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Replace attribute `name` of `owner` by ``wrap(attribute)`` for a while.

    Keras tracks what is assigned to a layer; this goes past that, and leaves no trace in the
    instance afterwards.
    """
    own = vars(owner)
    had, before = name in own, own.get(name)
    setter = type.__setattr__ if isinstance(owner, type) else object.__setattr__
    deleter = type.__delattr__ if isinstance(owner, type) else object.__delattr__
    setter(owner, name, wrap(getattr(owner, name)))
    try:
        yield
    finally:
        if had:
            setter(owner, name, before)
        else:
            deleter(owner, name)


class Tapping:
    """One tracing of one step of `model`.

    Parameters
    ----------
    model
        A built Keras model.
    names
        The paths of its layers and weights.
    policy
        What to keep.
    taps
        Where to put it.
    """

    def __init__(self, model: Any, names: Names, policy: Policy, taps: Taps) -> None:
        self._model = model
        self._names = names
        self._policy = policy
        self._taps = taps
        self._scope = _scope()
        self._calls: Counter[str] = Counter()
        self._sources: list[tuple[Kind, str, Any]] = []
        self._watched_by: Any = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Tap everything that runs inside the context, then put everything back."""
        policy = self._policy
        layers = [layer for layer, _ in walk(self._model)]
        looped = inside_recurrent(self._model)
        with ExitStack() as stack:
            if set(_OUTPUT_KINDS) & set(policy.kinds):
                for layer in layers:
                    if id(layer) not in looped:
                        stack.enter_context(rebound(layer, "call", self._wrap_layer(layer)))
            if policy.covers("inputs", X_GRADIENT):
                stack.enter_context(rebound(tf.GradientTape, "__enter__", self._wrap_enter))
                stack.enter_context(rebound(self._model, "call", self._wrap_model))
            stack.enter_context(rebound(tf.GradientTape, "gradient", self._wrap_gradient))
            stack.enter_context(rebound(self._model.optimizer, "scale_loss", self._wrap_scale_loss))
            yield
        self._explain_uncalled(layers, looped)

    def _wrap_layer(self, layer: Any) -> Callable[[Any], Any]:
        path = self._names.layers[id(layer)]

        def wrap(call: Any) -> Any:
            def tapped(*args: Any, **kwargs: Any) -> Any:
                output = call(*args, **kwargs)
                try:
                    self._keep_output(path, output)
                except Exception as error:
                    self._taps.error = self._taps.error or error
                return output

            return tapped

        return wrap

    def _keep_output(self, path: str, output: Any) -> None:
        number = self._calls[path]
        self._calls[path] += 1
        prefix = f"call{number}_" if number else ""
        for name, tensor in leaves(output):
            if not tf.is_tensor(tensor):
                continue
            place = f"{path}/{prefix}{joined(OUTPUT, name)}"
            reason = self._obstacle(tensor)
            if reason is not None:
                for kind in _output_kinds(self._policy, place):
                    self._taps.lacks(kind, place, reason)
                continue
            if _output_kinds(self._policy, place):
                self._taps.rows[place] = tf.shape(tensor)[0]
            if self._policy.covers("activations", place):
                self._taps.add("activations", place, _first(tensor, self._policy.samples))
            if not self._policy.covers("activation_gradients", place):
                continue
            logits = getattr(tensor, "_keras_logits", None)
            if logits is not None:
                self._taps.lacks("activation_gradients", place, _FROM_LOGITS)
                self._sources.append(("activation_gradients", f"{path}/{prefix}{_LOGITS}", logits))
            elif tensor.dtype.is_floating:
                self._sources.append(("activation_gradients", place, tensor))
            else:
                self._taps.lacks("activation_gradients", place, _NO_GRADIENT)

    def _obstacle(self, tensor: Any) -> str | None:
        """Return why an output cannot be kept, None where it can."""
        if _scope() is not self._scope:
            return _IN_A_LOOP
        if not storable(tensor):
            return NOT_NUMBERS
        return NOT_SAMPLES if tensor.shape.rank == 0 else None

    def _wrap_enter(self, enter: Any) -> Any:
        def tapped(tape: Any) -> Any:
            if self._watched_by is None:
                self._watched_by = tape
            return enter(tape)

        return tapped

    def _wrap_model(self, call: Any) -> Any:
        def tapped(*args: Any, **kwargs: Any) -> Any:
            if self._calls[""] == 0 and self._watched_by is not None:
                self._calls[""] += 1
                for name, tensor in leaves(args[0] if args else kwargs.get("inputs")):
                    place = joined(X_GRADIENT, name)
                    if not (storable(tensor) and tensor.dtype.is_floating):
                        self._taps.lacks("inputs", place, _NOT_FLOATING)
                        continue
                    self._watched_by.watch(tensor)
                    self._sources.append(("inputs", place, tensor))
            return call(*args, **kwargs)

        return tapped

    def _wrap_scale_loss(self, scale_loss: Any) -> Any:
        def tapped(loss: Any) -> Any:
            scaled = scale_loss(loss)
            if scaled is not loss:
                self._taps.scale = tf.cast(scale_loss(tf.ones((), tf.float32)), tf.float32)
            return scaled

        return tapped

    def _wrap_gradient(self, gradient: Any) -> Any:
        def tapped(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
            flat = tf.nest.flatten(sources)
            ours = any(id(source) in self._names.weights for source in flat)
            if self._taps.target is not None or not ours:
                return gradient(tape, target, sources, *args, **kwargs)
            self._taps.target = target
            extra = [tensor for _, _, tensor in self._sources]
            found = gradient(tape, target, [*flat, *extra], *args, **kwargs)
            self._keep_weight_gradients(flat, found[: len(flat)])
            self._keep_tensor_gradients(found[len(flat) :])
            return tf.nest.pack_sequence_as(sources, found[: len(flat)])

        return tapped

    def _keep_weight_gradients(self, variables: list[Any], gradients: list[Any]) -> None:
        for variable, gradient in zip(variables, gradients, strict=True):
            path = self._names.weights.get(id(variable))
            if path is None or not self._policy.covers("gradients", path):
                continue
            if gradient is None:
                self._taps.lacks("gradients", path, _NO_GRADIENT)
            else:
                self._taps.add("gradients", path, tf.convert_to_tensor(gradient))

    def _keep_tensor_gradients(self, gradients: list[Any]) -> None:
        for (kind, path, _), gradient in zip(self._sources, gradients, strict=True):
            if gradient is None:
                self._taps.lacks(kind, path, _NO_GRADIENT)
            else:
                dense = tf.convert_to_tensor(gradient)
                self._taps.add(kind, path, _first(dense, self._policy.samples))

    def _explain_uncalled(self, layers: list[Any], looped: Set[int]) -> None:
        for layer in layers:
            path = self._names.layers[id(layer)]
            reason = _IN_A_LOOP if id(layer) in looped else _NOT_CALLED
            if self._calls[path] == 0:
                for kind in _output_kinds(self._policy, f"{path}/{OUTPUT}"):
                    self._taps.lacks(kind, f"{path}/{OUTPUT}", reason)


def _output_kinds(policy: Policy, place: str) -> list[Kind]:
    return [kind for kind in _OUTPUT_KINDS if policy.covers(kind, place)]


def storable(tensor: Any) -> bool:
    """Whether `tensor` is dense and holds real numbers or booleans."""
    if not isinstance(tensor, tf.Tensor):
        return False
    return bool(tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool)


def _scope() -> Any:
    """Return the graph that is being built, None when running eagerly."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _first(tensor: Any, samples: int) -> Any:
    return tensor[:samples] if tensor.shape.rank else tensor
