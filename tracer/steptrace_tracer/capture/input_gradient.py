"""The gradient with respect to the input, from that of the first layer's output.

The backward pass to the input goes through the first layer for the whole batch. For the CNN of
the benchmarks it takes a quarter of a step. If the first layer treats each sample by itself, the
gradient of the few recorded samples follows from that of their outputs.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.names import OUTPUT, X_GRADIENT
from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.capture.names import joined, leaves
from steptrace_tracer.capture.taps import NO_GRADIENT, storable
from steptrace_tracer.keras_private import calls, is_keras_own, sublayers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.capture.names import Names
    from steptrace_tracer.capture.program import Program
    from steptrace_tracer.capture.taps import Taps

_UNDIFFERENTIABLE: Final = "an operation between it and the loss has no gradient ({}: {})"

_LAYERS: Final = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)
"""Layers of which one sample's output depends on that sample and the weights alone."""


def without_input_gradient(policy: Policy) -> Policy:
    """Return a policy that wants all but the gradient with respect to the input."""
    return policy.model_copy(update={"exclude": (*policy.exclude, X_GRADIENT, f"{X_GRADIENT}/*")})


def explain_undifferentiable(taps: Taps, x: Any, error: Exception) -> None:
    """Say why there is no gradient with respect to the input, or to what only depends on it.

    Parameters
    ----------
    taps
        What the step was asked for, when it is through.
    x
        The model's input.
    error
        What TensorFlow raised.
    """
    first = next(iter(str(error).splitlines()), "")
    reason = _UNDIFFERENTIABLE.format(type(error).__name__, f"{first:.200}")
    for name, _ in leaves(x):
        taps.explain_missing("inputs", joined(X_GRADIENT, name), reason)
    for (kind, path), known in [*taps.missing.items()]:
        if kind == "activation_gradients" and known.startswith(NO_GRADIENT):
            taps.explain_missing(kind, path, f"{known}, or {reason}")


@dataclasses.dataclass(frozen=True)
class InputGradientShortcut:
    """The layer that alone is called with the batch.

    Attributes
    ----------
    layer
        The layer.
    output
        The path of its output.
    """

    layer: Any
    output: str

    @classmethod
    def of(
        cls, program: Program, names: Names, policy: Policy, x: Any
    ) -> InputGradientShortcut | None:
        """Return the shortcut of the program's model, None where there is none of use.

        Parameters
        ----------
        program, names
            The step, and the paths of its layers.
        policy
            What is kept: without the gradient of the layer's output nothing follows from it.
        x
            The batch, as the step gets it.
        """
        model = program.models[0]
        # A custom model or training step may do anything with the batch.
        is_plain = (
            len(program.models) == 1
            and program.strategy is None
            and is_keras_own(type(model))
            and getattr(program.body, "__func__", None) is keras.Model.train_step
        )
        if not is_plain or not storable(x) or x.dtype != tf.float32:
            return None
        layer = _first_layer(model)
        if (
            type(layer) not in _LAYERS
            or layer.compute_dtype != "float32"
            or getattr(keras.activations, layer.activation.__name__, None) is not layer.activation
            or x.shape.rank != len(layer.input.shape)
        ):
            return None
        output = f"{names.layers[id(layer)]}/{OUTPUT}"
        wanted = policy.covers("inputs", X_GRADIENT)
        return (
            cls(layer, output) if wanted and policy.covers("activation_gradients", output) else None
        )

    def weights(self) -> list[Any]:
        """Return the layer's present weights."""
        return [tf.identity(variable.value) for variable in self.layer.variables]

    def tap(
        self, weights: list[Any], x: Any, tensors: Mapping[str, Any], taps: Taps
    ) -> dict[str, Any]:
        """Return the gradient with respect to `x`, ``kind/path`` to tensor.

        Parameters
        ----------
        weights
            Those of the layer before the step.
        x
            The recorded samples.
        tensors, taps
            What the step gave, and was asked for.
        """
        gradient = tensors.get(f"activation_gradients/{self.output}")
        if gradient is None:  # whose reason is that of the input's too
            reason = taps.missing.get(("activation_gradients", self.output), NO_GRADIENT)
            taps.explain_missing("inputs", X_GRADIENT, reason)
            return {}
        compute = self._compiled if tf.executing_eagerly() else self.input_gradient
        return {f"inputs/{X_GRADIENT}": compute(weights, x, gradient)}

    @functools.cached_property
    def _compiled(self) -> Any:
        compute = functools.partial(self.input_gradient)
        return tf.function(compute, autograph=False, reduce_retracing=True)

    def input_gradient(self, weights: Sequence[Any], x: Any, gradient: Any) -> Any:
        """Return the gradient of the loss with respect to `x`.

        Parameters
        ----------
        weights
            Those of the layer in the step's forward pass.
        x
            Samples, dims (sample, ...).
        gradient
            That of the loss with respect to the layer's output for these samples.
        """
        state = list(zip(self.layer.variables, weights, strict=True))
        with keras.StatelessScope(state_mapping=state), tf.GradientTape() as tape:
            tape.watch(x)
            output = self.layer(x)
        return tape.gradient(output, x, output_gradients=gradient)


def _first_layer(model: Any) -> Any:
    """Return the layer that alone is called with the model's one input, None if there is none."""
    inputs: Any = getattr(model, "inputs", None) or ()
    if len(inputs) != 1:
        return None
    uses: list[Any] = [
        layer
        for layer in sublayers(model)
        for call in calls(layer)
        for tensor in call
        if tensor is inputs[0]
    ]
    return uses[0] if len(uses) == 1 and len(calls(uses[0])) == 1 else None
