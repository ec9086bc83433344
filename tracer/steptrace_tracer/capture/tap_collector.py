"""Collecting the tensors that one training step is asked for beside its result.

The graph gets no operation between the existing ones.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from steptrace_schema.names import OUTPUT, SAMPLE_LOSS, SAMPLE_WEIGHT, X_GRADIENT
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.gradients import GradientAttribution
from steptrace_tracer.capture.names import Names, joined, leaves
from steptrace_tracer.capture.program import Batch
from steptrace_tracer.capture.taps import (
    NO_GRADIENT,
    NOT_NUMBERS,
    NOT_SAMPLES,
    Taps,
    current_graph,
    output_kinds,
    storable,
)
from steptrace_tracer.capture.target_losses import target_losses
from steptrace_tracer.capture.unfused_rows import FirstRows
from steptrace_tracer.keras_private import logits_of, weighted_losses
from steptrace_tracer.private_names import MissingNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Set

    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.capture.program import Program

_LOGITS = "logits"
_NOWHERE = object()
"""Stands for a graph that no tensor is of."""

_WEIGHTS_OF_LOSSES = "the losses of the step have different sample weights"
_WEIGHTS_OF_PARTS = "the weights differ within a sample"
_AGAIN = "the layer is computed again on the way back, and the gradient goes through that"
_IN_A_LOOP = (
    "the layer runs inside a loop or an inner function of the graph, where its tensors cannot be "
    "returned"
)
_NOT_THE_INPUT = "no model of the step is called with the batch itself"
_NO_SAMPLE_LOSS = (
    "no keras.losses.Loss, or more than one, computes a value for each sample in the step; what "
    "functions compute is not seen"
)
_NOT_CALLED = "the layer is not called in the training step"
_NOT_FLOATING = "the input is not floating point, so the loss has no gradient with respect to it"


class TapCollector:
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
    finds_batch, called_with
        Whether the step finds its batch itself, and what its model and its loss are called with.
    """

    def __init__(self, program: Program, names: Names, policy: Policy, batch: Batch) -> None:
        self._program = program
        self._names = names
        self._policy = policy
        self.taps = Taps()
        self._first_rows = FirstRows(policy.rows)
        self._gradients = GradientAttribution(
            program.models, names, policy, self.taps, self._first_rows
        )
        self._batch = batch
        self._x = [tensor for _, tensor in leaves(batch.x)]
        # A step that finds its batch itself calls its model, and its loss, with it.
        self.finds_batch = batch.x is None
        self.called_with = Batch()
        self._scope = current_graph()
        self._calls: Counter[str] = Counter()
        self._outputs: dict[str, Any] = {}
        self._inputs: dict[str, Any] = {}
        self._tapes: list[Any] = []
        self.undifferentiable: Exception | None = None
        """What the tape raised, which the gradient with respect to the input is asked of."""
        self._losses: list[Any] = []
        self._called: list[tuple[Any, Any]] = []
        self._sample_weights: list[Any] = []
        self._watched = False
        self._computed_again: set[str] = set()

    def keep_output(self, layer: Any, output: Any) -> None:
        """Keep what `layer` returned, and have its gradient when the loss is differentiated."""
        path = self._names.layers[id(layer)]
        if self._scope is _NOWHERE:
            self._computed_again.add(path)
            return
        number = self._calls[path]
        self._calls[path] += 1
        prefix = f"call{number}_" if number else ""
        for name, tensor in leaves(output):
            if not tf.is_tensor(tensor):
                continue
            place = f"{path}/{prefix}{joined(OUTPUT, name)}"
            reason = self._why_not_kept(tensor)
            if reason is not None:
                for kind in output_kinds(self._policy, place):
                    self.taps.explain_missing(kind, place, reason)
                continue
            if output_kinds(self._policy, place):
                self._outputs[place] = tensor
            if not self._policy.covers("activation_gradients", place):
                continue
            if tensor.dtype.is_floating:
                self._gradients.request_gradient("activation_gradients", place, tensor, layer)
            else:
                self.taps.explain_missing("activation_gradients", place, NO_GRADIENT)
            if (logits := logits_of(tensor)) is not None:
                own = f"{path}/{prefix}{_LOGITS}"
                self._gradients.request_logits_gradient(place, own, logits, layer)

    def _why_not_kept(self, tensor: Any) -> str | None:
        """Return why an output cannot be kept, None where it can."""
        if current_graph() is not self._scope:
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
        if self.finds_batch and current_graph() is self._scope and self.called_with.x is None:
            self.called_with = dataclasses.replace(self.called_with, x=structure)
        if not self._policy.covers("inputs", X_GRADIENT):
            return
        inputs = list(leaves(structure))
        # Of several models, or models in a model, the one whose input is the batch itself.
        alone = len(self._program.models) == 1 and model is self._program.models[0]
        if not alone and not any(tensor is x for _, tensor in inputs for x in self._x):
            return
        if not self._tapes or current_graph() is not self._scope:
            return
        if self._watched:
            self._watch_again([tensor for _, tensor in inputs])
            return
        self._watched = True
        for name, tensor in inputs:
            place = joined(X_GRADIENT, name)
            if not (storable(tensor) and tensor.dtype.is_floating):
                reason = _NOT_FLOATING if storable(tensor) else NOT_NUMBERS
                self.taps.explain_missing("inputs", place, reason)
                continue
            for tape in self._tapes:
                tape.watch(tensor)
            self._inputs[place] = tensor
            self._gradients.request_gradient("inputs", place, tensor)

    def _watch_again(self, called_with: list[Any]) -> None:
        """Have further tapes see the input, until one of them has differentiated a loss.

        A first tape may only have given the gradient by which a step changes its input.
        """
        if self._gradients.has_begun:
            return
        for tensor in self._inputs.values():
            if any(tensor is other for other in called_with):
                for tape in self._tapes:
                    tape.watch(tensor)

    def keep_loss(self, loss: Any, y_true: Any, values: Any, sample_weight: Any, mask: Any) -> None:
        """Keep what a loss found for each sample, before weights and the mean over the batch."""
        if current_graph() is self._scope:
            if self.finds_batch and self.called_with.y is None:
                self.called_with = dataclasses.replace(self.called_with, y=y_true)
            self._losses.append((values, mask))
            self._called.append((loss, y_true))
            self._sample_weights.append(sample_weight)

    def keep_scale(self, scaled: Any, scale: Any) -> None:
        """Note that the loss `scaled` is the loss times `scale`."""
        self._gradients.keep_scale(scaled, scale)

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
        if current_graph() is not self._scope:
            return gradient(target, sources, **keywords)

        def backward(*args: Any, **keywords: Any) -> Any:
            with self._in_backward():
                return gradient(*args, **keywords)

        try:
            return self._gradients.differentiate(backward, target, sources, keywords)
        except Exception as error:  # whatever the gradient of an operation raises
            self.undifferentiable = error if self._watched else None
            raise

    def jacobian(self, compute: Callable[[], Any], target: Any, sources: Any) -> Any:
        """Note what losses of samples are differentiated for; what that takes is no pass itself."""
        if current_graph() is self._scope:
            self._gradients.note_jacobian(target, sources)
        with self._in_backward():
            return compute()

    @contextmanager
    def _in_backward(self) -> Iterator[None]:
        """Have what a backward pass does itself be no part of the step: a layer is recomputed."""
        scope, self._scope = self._scope, _NOWHERE
        try:
            yield
        finally:
            self._scope = scope

    def assign(self, variable: Any) -> None:
        """Note that a variable is assigned to."""
        self._gradients.applied.assign(variable)

    def apply(self, optimizer: Any, gradients: Any, variables: Any) -> None:
        """Note what an optimizer is given for which variables."""
        self.taps.appliers.append(optimizer)
        if current_graph() is self._scope:
            self._gradients.applied.apply(gradients, variables)

    def finish(self, layers: list[Any], in_loops: Set[int]) -> None:
        """Keep the gradients, and say why what is missing is missing, when the step is through."""
        self._keep_outputs()
        if self._policy.covers("inputs", SAMPLE_WEIGHT):
            self._keep_sample_weight()
        self._gradients.finish()
        for (kind, place), reason in list(self.taps.missing.items()):
            layer = place.rpartition("/")[0]
            if reason.startswith(NO_GRADIENT) and layer in self._computed_again:
                self.taps.explain_missing(kind, place, _AGAIN)
        batch = self.called_with if self.finds_batch else self._batch
        self.taps.target_losses = target_losses(self._program.compiled_model, batch, self._called)
        if self._policy.covers("inputs", SAMPLE_LOSS):
            self._keep_sample_loss()
        self._explain_uncalled(layers, in_loops)

    def _keep_outputs(self) -> None:
        """Keep the outputs, now that the graph has everything that uses them, and count rows."""
        self.taps.rows |= {
            place: self._first_rows.count(tensor) for place, tensor in self._inputs.items()
        }
        for place, tensor in self._outputs.items():
            self.taps.rows[place] = self._first_rows.count(tensor)
            if not self._policy.covers("activations", place):
                continue
            try:
                self.taps.add("activations", place, self._first_rows.of(tensor))
            except MissingNameError as error:
                self.taps.explain_missing("activations", place, str(error))

    def _keep_sample_weight(self) -> None:
        """Keep the weight of each sample, where all losses take the same one."""
        distinct = {id(weight): weight for weight in self._sample_weights}
        if all(weight is None for weight in distinct.values()):
            return
        if len(distinct) > 1:
            self.taps.explain_missing("inputs", SAMPLE_WEIGHT, _WEIGHTS_OF_LOSSES)
            return
        weight = tf.convert_to_tensor(*distinct.values())
        if weight.shape.rank == 2 and weight.shape[1] == 1:
            weight = tf.squeeze(weight, 1)
        if weight.shape.rank == 1:
            self.taps.add("inputs", SAMPLE_WEIGHT, weight)
        else:
            self.taps.explain_missing("inputs", SAMPLE_WEIGHT, _WEIGHTS_OF_PARTS)

    def _keep_sample_loss(self) -> None:
        """Keep the loss of each sample: the sum over outputs, the mean over a sequence.

        Positions of a sequence that a mask leaves out do not count.
        """
        try:
            compiled = weighted_losses(self._program.compiled_model)
        except MissingNameError as error:
            self.taps.explain_missing("inputs", SAMPLE_LOSS, str(error))
            return
        factors = [weight for _, weight in compiled] or [None]
        if len(factors) != len(self._losses):
            self.taps.explain_missing("inputs", SAMPLE_LOSS, _NO_SAMPLE_LOSS)
            return
        total: Any = None
        for (values, mask), factor in zip(self._losses, factors, strict=True):
            if not storable(values) or not values.shape.rank:
                self.taps.explain_missing("inputs", SAMPLE_LOSS, _NO_SAMPLE_LOSS)
                return
            own = tf.cast(values, tf.float32)
            places = list(range(1, own.shape.rank))
            if mask is not None and mask.shape.rank == own.shape.rank:
                counted = tf.cast(mask, tf.float32)
                own = tf.math.divide_no_nan(
                    tf.reduce_sum(tf.where(mask, own, 0.0), axis=places),
                    tf.reduce_sum(counted, axis=places),
                )
            else:
                own = tf.reduce_mean(own, axis=places)
            own = own if factor is None else own * tf.cast(factor, tf.float32)
            total = own if total is None else total + own
        self.taps.add("inputs", SAMPLE_LOSS, total)

    def _explain_uncalled(self, layers: list[Any], in_loops: Set[int]) -> None:
        if not self._watched and self._policy.covers("inputs", X_GRADIENT):
            self.taps.explain_missing("inputs", X_GRADIENT, _NOT_THE_INPUT)
        for layer in layers:
            path = self._names.layers[id(layer)]
            reason = _IN_A_LOOP if id(layer) in in_loops else _NOT_CALLED
            if self._calls[path] == 0:
                for kind in output_kinds(self._policy, f"{path}/{OUTPUT}"):
                    self.taps.explain_missing(kind, f"{path}/{OUTPUT}", reason)
