"""Gradients of single units with respect to the probe's inputs: how each layer sees them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_schema.names import OUTPUT, SALIENCY, SALIENCY_NORM, SALIENCY_UNIT
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.names import joined, leaves
from steptrace_tracer.capture.taps import NOT_SAMPLES, Taps, storable

if TYPE_CHECKING:
    from steptrace_schema.format.attributes import Missing
    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.capture.probe import Probe

MOST_LAYERS: Final = 8
"""Layers that are differentiated where the policy leaves it to the tracer how often."""
_NO_INPUT_GRADIENT = "the layer's activation does not depend on this input by a gradient"
_NO_SIZE = "only running the model shows how many rows the output has"
_NO_SUCH_UNIT = "the layer has no unit of the number that the policy gives"
_NOT_CHOSEN = (
    f"{MOST_LAYERS} of the layers are differentiated, evenly chosen; "
    "Policy(probe_gradients_every=1) takes all of them at every recorded step"
)


class Saliency:
    """The gradient of one unit of each layer with respect to the probe's input.

    Simonyan, Vedaldi and Zisserman (2014), "Deep inside convolutional networks: visualising image
    classification models and saliency maps", for any layer instead of the class score: samples do
    not depend on each other in inference mode, so the gradient of the sum over samples holds that
    of each.

    Parameters
    ----------
    probe
        The model and the inputs.
    policy
        What to keep.

    Attributes
    ----------
    is_compiled
        Whether a pass is compiled. The first one of few runs operation by operation, since
        compiling it takes several times as long.
    """

    def __init__(self, probe: Probe, policy: Policy) -> None:
        self.probe = probe
        self._policy = policy
        self._taps = Taps()
        self._is_rare = policy.probe_gradients_every == "auto"
        self._function: Any = functools.partial(self._run)
        self.is_compiled = False
        if not self._is_rare:
            self.compile()

    def compile(self) -> None:
        """Have the next passes compiled, where the model is."""
        self.is_compiled = True
        if not self.probe.model.run_eagerly:
            self._function = tf.function(functools.partial(self._run), autograph=False)

    def __call__(self) -> dict[str, Any]:
        """Differentiate with the model's present weights; return ``probe_gradients/path``."""
        result: dict[str, Any] = self._function(self.probe.x)
        return result

    def missing(self) -> tuple[Missing, ...]:
        """Return what has no data, with reasons."""
        return self._taps.missing_entries()

    def _run(self, x: Any) -> dict[str, Any]:
        self._taps = taps = Taps()
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([tensor for _, tensor in leaves(x) if _is_floating(tensor)])
            activations = self.probe.forward(x, Taps())
        paths = [*activations]
        if self._is_rare and len(paths) > MOST_LAYERS:
            kept = {
                paths[n] for n in np.linspace(0, len(paths) - 1, MOST_LAYERS).round().astype(int)
            }
            for path in sorted(set(paths) - kept):
                taps.explain_missing("probe_gradients", f"{path}/{SALIENCY}", _NOT_CHOSEN)
            activations = {path: activations[path] for path in paths if path in kept}
        for path, output in activations.items():
            self._differentiate(tape, x, path, output)
        return taps.tensors

    def _differentiate(self, tape: Any, x: Any, path: str, output: Any) -> None:
        policy, taps = self._policy, self._taps
        if not output.shape[:1].is_fully_defined():
            has_others = self.probe.has_other_rows(f"{path}/{OUTPUT}")
            reason = NOT_SAMPLES if has_others else _NO_SIZE
            taps.explain_missing("probe_gradients", f"{path}/{SALIENCY}", reason)
            return
        if output.shape[:1] != self.probe.samples:
            taps.explain_missing("probe_gradients", f"{path}/{SALIENCY}", NOT_SAMPLES)
            return
        chosen = policy.probe_unit
        if chosen is not None and chosen >= output.shape[-1]:
            taps.explain_missing("probe_gradients", f"{path}/{SALIENCY}", _NO_SUCH_UNIT)
            return
        with tape:
            # A unit's activation: the mean over positions, where the layer has any.
            units = tf.reduce_mean(output, axis=list(range(1, output.shape.rank - 1)))
            strongest = tf.argmax(units, axis=-1, output_type=tf.int64)
            unit = strongest if chosen is None else tf.zeros_like(strongest) + chosen
            target = tf.reduce_sum(tf.gather(units, unit, batch_dims=1))
        squares: Any = 0.0
        for name, tensor in leaves(x):
            place = f"{path}/{joined(SALIENCY, name)}"
            gradient = tape.gradient(target, tensor) if _is_floating(tensor) else None
            if gradient is None:
                taps.explain_missing("probe_gradients", place, _NO_INPUT_GRADIENT)
                continue
            gradient = tf.convert_to_tensor(gradient)  # that of chosen rows is sparse
            if policy.covers("probe_gradients", place):
                taps.add("probe_gradients", place, gradient)
            exact = tf.square(tf.cast(gradient, tf.float32))
            squares += tf.reduce_sum(exact, axis=list(range(1, exact.shape.rank)))
        if tf.is_tensor(squares):
            taps.add("probe_gradients", f"{path}/{SALIENCY_NORM}", tf.sqrt(squares))
            taps.add("probe_gradients", f"{path}/{SALIENCY_UNIT}", unit)


def _is_floating(tensor: Any) -> bool:
    return storable(tensor) and bool(tensor.dtype.is_floating)
