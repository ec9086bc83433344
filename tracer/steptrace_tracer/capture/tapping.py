"""The tensors that one training step is asked for beside its result.

The graph gets no operation between the existing ones; the backward pass that the step does anyway
is asked for more of its results.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from steptrace_schema.format.attributes import Missing
from steptrace_schema.format.layout import unique_paths
from steptrace_schema.names import OUTPUT, SAMPLE_LOSS, SAMPLE_WEIGHT, X_GRADIENT, Kind
from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.capture.names import Names, joined, leaves, walk
from steptrace_tracer.capture.unfused_rows import first_rows, row_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence, Set

    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.capture.program import Batch, Program

_LOGITS = "logits"

_WEIGHTS_OF_LOSSES = "each loss of the step has sample weights of its own"
_WEIGHTS_OF_PARTS = "the parts of a sample have weights of their own"
NO_GRADIENT = "the loss does not depend on this tensor"
_FROM_LOGITS = (
    "the loss is computed from the layer's logits; their gradient is recorded as 'logits' beside it"
)
_IN_A_LOOP = (
    "the layer runs inside a loop or an inner function of the graph, where its tensors cannot be "
    "returned"
)
_NOT_THE_INPUT = "no model of the step is called with the batch itself"
_JOINT = "joint"
"""Name of a loss that is differentiated for the weights of several models at once."""
_NO_SAMPLE_LOSS = "the step computes no loss, or more than one, that has a value for each sample"
_NOT_DIFFERENTIATED = "the step differentiates no loss with respect to this weight"
_NOT_CALLED = "the layer is not called in the training step"
_NOT_FLOATING = "the input is not floating point, so the loss has no gradient with respect to it"
NOT_NUMBERS = "it is not a dense tensor of numbers"
NOT_SAMPLES = "its first dimension does not count the samples of the batch"
OUTPUT_KINDS: tuple[Kind, ...] = ("activations", "activation_gradients")


@dataclasses.dataclass
class Taps:
    """The tensors of one step, ``kind/path`` to tensor, and what is missing with its reason."""

    tensors: dict[str, Any] = dataclasses.field(default_factory=dict)
    missing: dict[tuple[Kind, str], str] = dataclasses.field(default_factory=dict)
    rows: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Path of each output to its extent along the first dimension, over the whole batch."""
    losses: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Name of a model to the loss that its weights were differentiated for, unscaled float32."""
    scale: Any = None
    """What an optimizer multiplied the loss by, float32; None where it did not."""
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
            for kind in OUTPUT_KINDS
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


@dataclasses.dataclass(frozen=True)
class _Source:
    """A tensor whose gradient is wanted."""

    kind: Kind
    path: str
    tensor: Any
    layer: int | None
    """``id`` of the layer that it is an output of; None for an input of the model."""


@dataclasses.dataclass(frozen=True)
class _Home:
    """A model, or a model inside a model, whose weights may be trained by themselves."""

    name: str
    weights: Set[int]
    layers: Set[int]


@dataclasses.dataclass(frozen=True)
class _Backward:
    """One differentiation of a loss with respect to weights."""

    target: Any
    scale: Any
    home: _Home | None
    """The smallest model with all these weights; None where they are of several."""
    found: dict[tuple[Kind, str], Any]

    def distance(self, layer: int | None) -> float:
        """Return how far this loss is from being the layer's own: the size of its model."""
        if self.home is None or (layer is not None and layer not in self.home.layers):
            return math.inf
        return len(self.home.layers)


class Tapping:
    """What one replica's run through one step of `program` is asked for.

    Parameters
    ----------
    program
        The step, with its built models.
    names
        The paths of their layers and weights.
    policy
        What to keep.
    batch
        What the step is trained on.

    Attributes
    ----------
    taps
        What was kept, and why the rest was not.
    """

    def __init__(self, program: Program, names: Names, policy: Policy, batch: Batch) -> None:
        self._program = program
        self._names = names
        self._policy = policy
        self.taps = Taps()
        self._x = [tensor for _, tensor in leaves(batch.x)]
        self._scope = _scope()
        self._calls: Counter[str] = Counter()
        self._sources: list[_Source] = []
        self._outputs: dict[str, Any] = {}
        self._logits: dict[str, str] = {}
        """Path of an output to that of the logits that it is computed from."""
        self._tapes: list[Any] = []
        self._scaled: list[tuple[Any, Any]] = []
        self._backward: list[_Backward] = []
        self._losses: list[Any] = []
        self._sample_weights: list[Any] = []
        self._homes = _homes(program.models)
        self._watched = False

    def keep_output(self, layer: Any, output: Any) -> None:
        """Keep what `layer` returned, and have its gradient when the loss is differentiated."""
        path = self._names.layers[id(layer)]
        number = self._calls[path]
        self._calls[path] += 1
        prefix = f"call{number}_" if number else ""
        for name, tensor in leaves(output):
            if not tf.is_tensor(tensor):
                continue
            place = f"{path}/{prefix}{joined(OUTPUT, name)}"
            reason = self._obstacle(tensor)
            if reason is not None:
                for kind in output_kinds(self._policy, place):
                    self.taps.lacks(kind, place, reason)
                continue
            if output_kinds(self._policy, place):
                self._outputs[place] = tensor
            if not self._policy.covers("activation_gradients", place):
                continue
            if tensor.dtype.is_floating:
                self._have_gradient(place, tensor, layer)
            else:
                self.taps.lacks("activation_gradients", place, NO_GRADIENT)
            logits = getattr(tensor, "_keras_logits", None)
            if logits is not None:
                # A cross-entropy takes these, any other loss or layer takes the output.
                self._logits[place] = f"{path}/{prefix}{_LOGITS}"
                self._have_gradient(self._logits[place], logits, layer)

    def _have_gradient(self, place: str, tensor: Any, layer: Any) -> None:
        self._sources.append(_Source("activation_gradients", place, tensor, id(layer)))

    def _obstacle(self, tensor: Any) -> str | None:
        """Return why an output cannot be kept, None where it can."""
        if _scope() is not self._scope:
            return _IN_A_LOOP
        if not storable(tensor):
            return NOT_NUMBERS
        return NOT_SAMPLES if tensor.shape.rank == 0 else None

    def enter(self, tape: Any) -> None:
        """Note that `tape` records from now on."""
        self._tapes.append(tape)

    def leave(self, tape: Any) -> None:
        """Note that `tape` does not record any more."""
        self._tapes = [other for other in self._tapes if other is not tape]

    def watch(self, model: Any, structure: Any) -> None:
        """Have the gradient of what `model` is called with, where that is the batch."""
        inputs = list(leaves(structure))
        # Of several models, or models in a model, the one whose input is the batch itself.
        alone = len(self._program.models) == 1 and model is self._program.models[0]
        if not alone and not any(tensor is x for _, tensor in inputs for x in self._x):
            return
        if self._watched or not self._tapes or _scope() is not self._scope:
            return
        self._watched = True
        for name, tensor in inputs:
            place = joined(X_GRADIENT, name)
            if not (storable(tensor) and tensor.dtype.is_floating):
                self.taps.lacks("inputs", place, _NOT_FLOATING)
                continue
            for tape in self._tapes:
                tape.watch(tensor)
            self._sources.append(_Source("inputs", place, tensor, None))

    def keep_loss(self, values: Any, sample_weight: Any) -> None:
        """Keep what a loss found for each sample, before weights and the mean over the batch."""
        if _scope() is self._scope:
            self._losses.append(values)
            self._sample_weights.append(sample_weight)

    def keep_scale(self, scaled: Any, scale: Any) -> None:
        """Note that the loss `scaled` is the loss times `scale`."""
        scale = tf.cast(scale, tf.float32)
        self._scaled.append((scaled, scale))
        self.taps.scale = scale

    def differentiate(
        self, gradient: Callable[..., Any], target: Any, sources: Any, keywords: dict[str, Any]
    ) -> Any:
        """Ask for the gradients of `target`, those of what was kept so far included.

        Parameters
        ----------
        gradient
            ``tape.gradient`` of the tape in question.
        target, sources, keywords
            What the step asks it for.
        """
        flat = tf.nest.flatten(sources)
        paths = [self._names.weights.get(id(source)) for source in flat]
        if _scope() is not self._scope or all(path is None for path in paths):
            return gradient(target, sources, **keywords)
        wanted = list(self._sources)
        extra = [source.tensor for source in wanted]
        gradients = gradient(target, [*flat, *extra], **keywords)
        own = gradients[: len(flat)]
        found: dict[tuple[Kind, str], Any] = {}
        for path, value in zip(paths, own, strict=True):
            if path is not None and self._policy.covers("gradients", path):
                found["gradients", path] = value
        for source, value in zip(wanted, gradients[len(flat) :], strict=True):
            found[source.kind, source.path] = value
        weights = {id(v) for v, path in zip(flat, paths, strict=True) if path is not None}
        home = next((home for home in self._homes if weights <= home.weights), None)
        self._backward.append(_Backward(target, self._scale_of(target), home, found))
        return tf.nest.pack_sequence_as(sources, own)

    def settle(self, layers: list[Any], looped: Set[int]) -> None:
        """Keep the gradients, and say why what is missing is missing, when the step is through."""
        self._keep_outputs()
        if self._policy.covers("inputs", SAMPLE_WEIGHT):
            self._keep_sample_weight()
        self._keep_gradients()
        if self._policy.covers("inputs", SAMPLE_LOSS):
            self._keep_sample_loss()
        self._explain_undifferentiated()
        self._explain_uncalled(layers, looped)

    def _keep_outputs(self) -> None:
        """Keep the outputs, now that the graph has everything that uses them."""
        for place, tensor in self._outputs.items():
            self.taps.rows[place] = row_count(tensor)
            if self._policy.covers("activations", place):
                self.taps.add("activations", place, first_rows(tensor, self._policy.rows))

    def _keep_sample_weight(self) -> None:
        """Keep the weight of each sample, where all losses take the same one."""
        distinct = {id(weight): weight for weight in self._sample_weights}
        if all(weight is None for weight in distinct.values()):
            return
        if len(distinct) > 1:
            self.taps.lacks("inputs", SAMPLE_WEIGHT, _WEIGHTS_OF_LOSSES)
            return
        weight = tf.convert_to_tensor(*distinct.values())
        if weight.shape.rank == 2 and weight.shape[1] == 1:
            weight = tf.squeeze(weight, 1)
        if weight.shape.rank == 1:
            self.taps.add("inputs", SAMPLE_WEIGHT, weight)
        else:
            self.taps.lacks("inputs", SAMPLE_WEIGHT, _WEIGHTS_OF_PARTS)

    def _scale_of(self, target: Any) -> Any:
        """Return what the differentiated loss was multiplied by."""
        for scaled, scale in self._scaled:
            if scaled is target:
                return scale
        # A step may do more with the scaled loss, such as a sum over several.
        return self._scaled[0][1] if len(self._scaled) == 1 else None

    def _keep_gradients(self) -> None:
        """Keep each gradient once: of the losses that belong to the layer's own model.

        Where these are several, it is the gradient of their sum, as ``scalars/loss`` is the sum.
        """
        layers = {(source.kind, source.path): source.layer for source in self._sources}
        keys = dict.fromkeys(key for backward in self._backward for key in backward.found)
        taken = self._logits_that_are_taken()
        for kind, path in keys:
            if path in self._logits.values() and path not in taken:
                continue
            candidates = [b for b in self._backward if b.found.get((kind, path)) is not None]
            if not candidates:
                reason = _FROM_LOGITS if self._logits.get(path) in taken else NO_GRADIENT
                self.taps.lacks(kind, path, reason)
                continue
            layer = layers.get((kind, path))
            if kind != "gradients":  # those of weights are of every loss that asks for them
                nearest = min(backward.distance(layer) for backward in candidates)
                candidates = [b for b in candidates if b.distance(layer) == nearest]
            self.taps.add(kind, path, self._summed(kind, path, candidates))
        for source in self._sources:
            if (source.kind, source.path) not in keys and source.path not in self._logits.values():
                self.taps.lacks(source.kind, source.path, NO_GRADIENT)
        for backward in self._backward:
            name = backward.home.name if backward.home is not None else _JOINT
            loss = tf.cast(tf.reduce_sum(backward.target), tf.float32)
            if backward.scale is not None:
                loss = loss / backward.scale
            self.taps.losses[unique_paths([*self.taps.losses, name])[-1]] = loss

    def _summed(self, kind: Kind, path: str, backwards: Sequence[_Backward]) -> Any:
        gradients = []
        for backward in backwards:
            dense = tf.convert_to_tensor(backward.found[kind, path])
            if kind != "gradients":
                dense = first_rows(dense, self._policy.rows)
            gradients.append(_unscaled(dense, backward.scale))
        return gradients[0] if len(gradients) == 1 else tf.add_n(gradients)

    def _logits_that_are_taken(self) -> set[str]:
        """Return the paths of logits that a loss depends on, but not by way of the output."""
        found = {
            path
            for backward in self._backward
            for (kind, path), value in backward.found.items()
            if kind == "activation_gradients" and value is not None
        }
        return {
            logits
            for output, logits in self._logits.items()
            if logits in found and output not in found
        }

    def _keep_sample_loss(self) -> None:
        """Keep the loss of each sample: the sum over outputs, the mean over a sequence."""
        compiled = getattr(self._program.models[0], "_compile_loss", None)
        flat = getattr(compiled, "_flat_losses", None) or ()
        factors = [factor for _, loss, factor, _ in flat if loss is not None] or [None]
        if len(factors) != len(self._losses):
            self.taps.lacks("inputs", SAMPLE_LOSS, _NO_SAMPLE_LOSS)
            return
        total: Any = None
        for values, factor in zip(self._losses, factors, strict=True):
            if not storable(values) or not values.shape.rank:
                self.taps.lacks("inputs", SAMPLE_LOSS, _NO_SAMPLE_LOSS)
                return
            own = tf.cast(values, tf.float32)
            own = tf.reduce_mean(own, axis=list(range(1, own.shape.rank)))
            own = own if factor is None else own * tf.cast(factor, tf.float32)
            total = own if total is None else total + own
        self.taps.add("inputs", SAMPLE_LOSS, total)

    def _explain_undifferentiated(self) -> None:
        """Say of which trainable weights no loss is differentiated in the step."""
        for model in self._program.models:
            for variable in model.trainable_weights:
                path = self._names.weights.get(id(variable))
                known = self.taps.tensors.keys() | {f"{k}/{p}" for k, p in self.taps.missing}
                if (
                    path is not None
                    and self._policy.covers("gradients", path)
                    and f"gradients/{path}" not in known
                ):
                    self.taps.lacks("gradients", path, _NOT_DIFFERENTIATED)

    def _explain_uncalled(self, layers: list[Any], looped: Set[int]) -> None:
        if not self._watched and self._policy.covers("inputs", X_GRADIENT):
            self.taps.lacks("inputs", X_GRADIENT, _NOT_THE_INPUT)
        for layer in layers:
            path = self._names.layers[id(layer)]
            reason = _IN_A_LOOP if id(layer) in looped else _NOT_CALLED
            if self._calls[path] == 0:
                for kind in output_kinds(self._policy, f"{path}/{OUTPUT}"):
                    self.taps.lacks(kind, f"{path}/{OUTPUT}", reason)


def _homes(models: tuple[Any, ...]) -> list[_Home]:
    """Return every model that may be trained by itself, the smallest first."""
    nested = (m for model in models for m, _ in walk(model) if isinstance(m, keras.Model))
    homes = [
        _Home(
            str(model.name),
            {id(variable) for variable in model.weights},
            {id(layer) for layer, _ in walk(model)},
        )
        for model in (*models, *nested)
    ]
    return sorted(homes, key=lambda home: len(home.layers))


def _unscaled(gradient: Any, scale: Any) -> Any:
    if scale is None:
        return gradient
    # float16 has no room for the scale, nor for all that is divided by it.
    return tf.cast(gradient, tf.float32) / scale


def output_kinds(policy: Policy, place: str) -> list[Kind]:
    """Return the kinds in which the layer output at `place` is recorded."""
    return [kind for kind in OUTPUT_KINDS if policy.covers(kind, place)]


def storable(tensor: Any) -> bool:
    """Whether `tensor` is dense and holds real numbers or booleans."""
    if not isinstance(tensor, tf.Tensor):
        return False
    return bool(tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool)


def _scope() -> Any:
    """Return the graph that is being built, None when running eagerly."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
