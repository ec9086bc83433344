"""The gradients of a step, and the losses and models that they belong to.

The backward pass that the step does anyway is asked for more of its results.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from steptrace_schema.format.paths import unique_paths
from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.capture.applied import AppliedGradients
from steptrace_tracer.capture.names import Names, walk_layers, walk_operations
from steptrace_tracer.capture.taps import NO_GRADIENT, Taps
from steptrace_tracer.keras_private import missing_logits
from steptrace_tracer.private_names import MissingNameError
from steptrace_tracer.record.why_missing import NOT_TRAINED

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Sequence, Set

    from steptrace_schema.format.policy import Policy
    from steptrace_schema.names import Kind
    from steptrace_tracer.capture.unfused_rows import FirstRows

_FROM_LOGITS = (
    "the loss is computed from the layer's logits; the gradient of the logits is recorded instead, "
    "as 'logits'"
)
_JOINT = "joint"
"""Name of a loss that is differentiated for the weights of several models at once."""
_SPARSE_LIMIT = 2**24
"""Elements from which on a sparse gradient stays sparse: a dense one takes longer than the step."""
_SPARSE = "it is the gradient of a few rows of a very large weight, which is not made dense"
_NOT_DIFFERENTIATED = "the step differentiates no loss with respect to this weight"


@dataclasses.dataclass(frozen=True)
class _Source:
    """A tensor whose gradient is wanted."""

    kind: Kind
    path: str
    tensor: Any
    layer: int | None
    """``id`` of the layer that it is an output of; None for an input of the model."""


@dataclasses.dataclass(frozen=True)
class _TrainedModel:
    """A model, or a model inside a model, whose weights may be trained by themselves."""

    name: str
    weights: Set[str]
    layers: Set[int]


@dataclasses.dataclass(frozen=True)
class _Backward:
    """One differentiation of a loss with respect to weights."""

    target: Any
    scale: Any
    model: _TrainedModel | None
    """The smallest model with all these weights; None where they are of several."""
    found: dict[tuple[Kind, str], Any]
    moves: Counter[str]
    """How often each weight had been assigned to in the step before, by path."""

    def distance(self, layer: int | None) -> float:
        """Return how far this loss is from being the layer's own: the size of its model."""
        if self.model is None or (layer is not None and layer not in self.model.layers):
            return math.inf
        return len(self.model.layers)


class GradientAttribution:
    """Finds the gradients of one replica's step, and the loss and model that each belongs to.

    Parameters
    ----------
    models
        The models that the step trains.
    names
        The paths of their layers and weights.
    policy
        What to keep.
    taps
        Where the gradients go, and the reasons for those that are missing.
    rows
        Takes those of tensors that are kept.
    """

    def __init__(
        self, models: tuple[Any, ...], names: Names, policy: Policy, taps: Taps, rows: FirstRows
    ) -> None:
        self._first_rows = rows
        self._models = models
        self._names = names
        self._policy = policy
        self._taps = taps
        self._sources: list[_Source] = []
        self._logits: dict[str, str] = {}
        """Path of an output to that of the logits that it is computed from."""
        self._scaled: list[tuple[Any, Any]] = []
        self._backward: list[_Backward] = []
        self._trained_models = _trained_models(models, names)
        self._paths = dict(names.weights)
        self._sizes: dict[str, int] = {}
        for variable in {id(v): v for model in models for v in model.weights}.values():
            if id(variable) in names.weights:
                self._sizes[names.weights[id(variable)]] = math.prod(variable.shape)
                # A tape gives the variables that it has watched as TensorFlow's own.
                own = variable.value
                for part in (own, *getattr(own, "values", ())):
                    self._paths[id(part)] = names.weights[id(variable)]
        self.applied = AppliedGradients(self._paths)
        self._of_samples: list[Any] = []

    def request_gradient(self, kind: Kind, path: str, tensor: Any, layer: Any = None) -> None:
        """Ask for the gradient of `tensor`, an output of `layer`, or an input of the model."""
        self._sources.append(_Source(kind, path, tensor, None if layer is None else id(layer)))

    def request_logits_gradient(self, output: str, path: str, logits: Any, layer: Any) -> None:
        """Ask for the gradient of the logits that the output at path `output` is computed from.

        A cross-entropy takes these, any other loss or layer takes the output.
        """
        self._logits[output] = path
        self.request_gradient("activation_gradients", path, logits, layer)

    def keep_scale(self, scaled: Any, scale: Any) -> None:
        """Note that the loss `scaled` is the loss times `scale`."""
        scale = tf.cast(scale, tf.float32)
        self._scaled.append((scaled, scale))
        self._taps.scale = scale

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
        paths = [self._paths.get(id(source)) for source in flat]
        if all(path is None for path in paths):
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
        weights = {path for path in paths if path is not None}
        model = next((model for model in self._trained_models if weights <= model.weights), None)
        moves = self.applied.moves.copy()
        self._backward.append(_Backward(target, self._scale_of(target), model, found, moves))
        return tf.nest.pack_sequence_as(sources, own)

    @property
    def has_begun(self) -> bool:
        """Whether anything has been differentiated with respect to weights."""
        return bool(self._backward)

    def finish(self) -> None:
        """Keep the gradients, and say of which weights there are none, when the step is through."""
        self._keep_gradients()
        self._explain_undifferentiated()

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
        later: dict[int, _Backward] = {}
        for kind, path in keys:
            if path in self._logits.values() and path not in taken:
                continue
            candidates = [b for b in self._backward if b.found.get((kind, path)) is not None]
            if not candidates:
                reason = _FROM_LOGITS if self._logits.get(path) in taken else _no_gradient(kind)
                self._taps.explain_missing(kind, path, reason)
                continue
            layer = layers.get((kind, path))
            if kind == "gradients":  # of every loss that asks for them, as far as they are applied
                candidates = self._applied(path, candidates, later)
            else:
                nearest = min(backward.distance(layer) for backward in candidates)
                candidates = [b for b in candidates if b.distance(layer) == nearest]
            if any(self._is_too_sparse(path, each.found[kind, path]) for each in candidates):
                self._taps.explain_missing(kind, path, _SPARSE)
                continue
            try:
                self._taps.add(kind, path, self._summed(kind, path, candidates))
            except MissingNameError as error:
                self._taps.explain_missing(kind, path, str(error))
        for source in self._sources:
            if (source.kind, source.path) not in keys and source.path not in self._logits.values():
                self._taps.explain_missing(source.kind, source.path, NO_GRADIENT)
        self._keep_applied_only()
        if not self._backward and self.applied.given:
            for target in self._of_samples:
                own = unique_paths([*self._taps.losses, _JOINT])[-1]
                self._taps.losses[own] = tf.reduce_mean(tf.cast(target, tf.float32))
        for backward in self._backward:
            name = backward.model.name if backward.model is not None else _JOINT
            parts = tf.nest.flatten(backward.target)
            loss = tf.add_n([tf.cast(tf.reduce_sum(part), tf.float32) for part in parts])
            if backward.scale is not None:
                loss = loss / backward.scale
            own = unique_paths([*self._taps.losses, name])[-1]
            self._taps.losses[own] = loss
            if id(backward) in later:
                self._taps.later_losses.add(own)

    def _applied(
        self, path: str, candidates: list[_Backward], later: dict[int, _Backward]
    ) -> list[_Backward]:
        """Return the gradients of a weight that count; note the passes that others follow on.

        What is left out was differentiated in the same step, and at other weights.
        """
        if len(candidates) < 2:
            return candidates
        key: tuple[Kind, str] = ("gradients", path)
        gradients = [backward.found[key] for backward in candidates]
        chosen = self.applied.chosen(path, gradients, [b.moves[path] for b in candidates])
        if chosen is None:
            return candidates
        later |= {id(backward): backward for backward in candidates[1:]}
        scales = {id(g): b.scale for g, b in zip(gradients, candidates, strict=True)}
        last = candidates[-1]
        return [
            dataclasses.replace(last, found={key: g}, scale=scales.get(id(g), last.scale))
            for g in chosen
        ]

    def _keep_applied_only(self) -> None:
        """Keep what an optimizer was given for weights that no loss was differentiated for."""
        known = self._taps.tensors.keys() | {f"{k}/{p}" for k, p in self._taps.missing}
        for path, given in self.applied.given.items():
            if f"gradients/{path}" in known or not self._policy.covers("gradients", path):
                continue
            if not any(
                backward.found.get(("gradients", path)) is not None for backward in self._backward
            ):
                if any(self._is_too_sparse(path, gradient) for gradient in given):
                    self._taps.explain_missing("gradients", path, _SPARSE)
                    continue
                dense = [tf.convert_to_tensor(gradient) for gradient in given]
                summed = dense[0] if len(dense) == 1 else tf.add_n(dense)
                self._taps.add("gradients", path, _unscaled(summed, self._taps.scale))

    def note_jacobian(self, target: Any, sources: Any) -> None:
        """Note losses of samples that are differentiated one by one."""
        if any(id(source) in self._paths for source in tf.nest.flatten(sources)):
            self._of_samples.append(target)

    def _is_too_sparse(self, path: str, gradient: Any) -> bool:
        """Whether it is the gradient of a few rows of a weight with a great many."""
        return isinstance(gradient, tf.IndexedSlices) and self._sizes.get(path, 0) > _SPARSE_LIMIT

    def _summed(self, kind: Kind, path: str, backwards: Sequence[_Backward]) -> Any:
        gradients = []
        for backward in backwards:
            dense = tf.convert_to_tensor(backward.found[kind, path])
            if kind != "gradients":
                dense = self._first_rows.of(dense)
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

    def _explain_undifferentiated(self) -> None:
        """Say of which trainable weights no loss is differentiated in the step."""
        known = self._taps.tensors.keys() | {f"{k}/{p}" for k, p in self._taps.missing}
        for model in self._models:
            trainable = {id(variable) for variable in model.trainable_weights}
            for variable in model.weights:
                path = self._names.weights.get(id(variable))
                if path is None or f"gradients/{path}" in known:
                    continue
                if self._policy.covers("gradients", path):
                    reason = _NOT_DIFFERENTIATED if id(variable) in trainable else NOT_TRAINED
                    self._taps.explain_missing("gradients", path, reason)


def _trained_models(models: tuple[Any, ...], names: Names) -> list[_TrainedModel]:
    """Return every model that may be trained by itself, the smallest first."""
    nested = (m for model in models for m, _ in walk_layers(model) if isinstance(m, keras.Model))
    trained_models = [
        _TrainedModel(
            str(model.name),
            {names.weights[id(v)] for v in model.weights if id(v) in names.weights},
            {id(layer) for layer, _ in walk_operations(model)},
        )
        for model in (*models, *nested)
    ]
    return sorted(trained_models, key=lambda model: len(model.layers))


def _no_gradient(kind: Kind) -> str:
    """Return why there is no gradient of a tensor, which may have been taken by its logits."""
    if kind == "activation_gradients" and (missing := missing_logits()) is not None:
        return f"{NO_GRADIENT}, or on its logits alone: {missing}"
    return NO_GRADIENT


def _unscaled(gradient: Any, scale: Any) -> Any:
    if scale is None:
        return gradient
    # float16 has no room for the scale, nor for all that is divided by it.
    return tf.cast(gradient, tf.float32) / scale
