"""The traced training step: the model's own step, returning its taps beside its result."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from steptrace_schema.names import X, Y
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.naming import Names, joined, leaves
from steptrace_tracer.probe import Probe
from steptrace_tracer.taps import Tapping, Taps

if TYPE_CHECKING:
    from steptrace_schema.attributes import Missing, Policy

ITERATION = "iteration"
BATCH_INPUT = "batch_input"
"""Keys of taps that the record needs and that are not arrays of the trace."""

_NOT_NUMERIC = "its type cannot be stored"


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What one traced step gave.

    Attributes
    ----------
    logs
        What the model's step returned.
    tensors
        ``kind/path`` to eager tensor, and the two extra taps.
    wall_time
        When the step began, seconds since 1970.
    duration
        How long it took, seconds.
    """

    logs: Any
    tensors: dict[str, Any]
    wall_time: float
    duration: float


class TracedStep:
    """Runs single training steps of `model` and returns their taps.

    The graph of the step is traced once for each input signature, as Keras' own is.

    Parameters
    ----------
    model
        A built and compiled Keras model.
    policy
        What to keep.
    probe
        Inputs of the probe; None for the first samples of the first batch.
    """

    def __init__(self, model: Any, policy: Policy, probe: Any = None) -> None:
        self._model = model
        self._policy = policy
        self.names = Names.of(model)
        self.taps = Taps()
        self.traces = 0
        self.probe: Probe | None = None
        if policy_wants_probe(policy) and probe is not None:
            self.probe = Probe(model, self.names, policy, probe)
        self._function: Any = None

    def run(self, data: Any, spec: Any) -> StepResult:
        """Train on one batch.

        Parameters
        ----------
        data
            The batch, as the data set gives it.
        spec
            The ``element_spec`` of the data set, None where it has none.
        """
        if self.probe is None and policy_wants_probe(self._policy):
            inputs = data[0] if isinstance(data, tuple) else data
            first = tf.nest.map_structure(lambda t: t[: self._policy.samples], inputs)
            self.probe = Probe(self._model, self.names, self._policy, first)
        if self._function is None:
            self._function = self._compile(spec)
        wall_time, start = time.time(), time.perf_counter()
        probed = self.probe() if self.probe is not None else {}
        logs, tensors = self._function(data)
        duration = time.perf_counter() - start
        return StepResult(logs, {**tensors, **probed}, wall_time, duration)

    def missing(self) -> tuple[Missing, ...]:
        """Return what the last step has no data for, with reasons."""
        probed = self.probe.taps.missing_entries() if self.probe is not None else ()
        return (*self.taps.missing_entries(), *probed)

    def _compile(self, spec: Any) -> Any:
        if self._model.run_eagerly:
            return self._step
        # As Keras does it: one function inside another, with the signature of the data set, so that
        # the same program is compiled.
        step = tf.function(
            self._step,
            reduce_retracing=True,
            jit_compile=self._model.jit_compile,
            autograph=False,
        )
        signature = None if spec is None else [spec]
        return tf.function(
            lambda data: step(data),
            input_signature=signature,
            reduce_retracing=True,
            autograph=False,
        )

    def _step(self, data: Any) -> tuple[Any, dict[str, Any]]:
        self.traces += 1
        self.taps = taps = Taps()
        model, policy = self._model, self._policy
        iteration = tf.identity(model.optimizer.iterations.value)
        rate = tf.cast(tf.identity(model.optimizer.learning_rate), tf.float32)
        scale = _loss_scale(model.optimizer)
        before = self._weights()
        # TensorFlow orders these reads before the step's assignments. Control dependencies would say so
        # too, but variables that the first step creates could then not be lifted out of it for XLA.
        with Tapping(model, self.names, policy, taps).installed():
            logs = model.train_step(data)
        if taps.target is None:
            msg = (
                "the model's train_step differentiates no loss with respect to its weights by "
                "tf.GradientTape.gradient, so there are no gradients to record"
            )
            raise NotImplementedError(msg)
        if scale is not None:
            for key, tensor in taps.tensors.items():
                if key.partition("/")[0] in {"gradients", "activation_gradients"} or key.startswith(
                    "inputs/x_gradient"
                ):
                    taps.tensors[key] = tensor / tf.cast(scale, tensor.dtype)
        loss = taps.target if scale is None else taps.target / tf.cast(scale, taps.target.dtype)
        taps.add("scalars", "loss", tf.cast(tf.reduce_sum(loss), tf.float32))
        taps.add("scalars", "learning_rate", rate)
        for name, value in (logs if isinstance(logs, dict) else {}).items():
            for part, metric in leaves(value):
                taps.add("scalars", f"metrics/{joined(name, part)}", tf.cast(metric, tf.float32))
        for path, tensor in before.items():
            if policy.covers("weights", path):
                taps.add("weights", path, tensor)
        if policy.every > 1:
            after = self._weights()
            for path in after:
                if policy.covers("updates", path):
                    taps.add("updates", path, after[path] - before[path])
        self._tap_data(data, taps)
        return logs, {**taps.tensors, ITERATION: iteration, **_batch_input(data)}

    def _weights(self) -> dict[str, Any]:
        return {
            path: tf.identity(variable.value)
            for variable in self._model.weights
            if (path := self.names.weights.get(id(variable))) is not None
            and self._policy.covers("weights", path)
        }

    def _tap_data(self, data: Any, taps: Taps) -> None:
        parts = data if isinstance(data, tuple) else (data,)
        for base, structure in zip((X, Y), parts, strict=False):
            for name, tensor in leaves(structure):
                place = joined(base, name)
                if not self._policy.covers("inputs", place):
                    continue
                if tensor.dtype == tf.string:
                    taps.lacks("inputs", place, _NOT_NUMERIC)
                else:
                    taps.add("inputs", place, tensor[: self._policy.samples])

    def final_weights(self) -> dict[str, Any]:
        """Return the model's present weights, ``weights/path`` to tensor."""
        return {f"weights/{path}": tensor for path, tensor in self._weights().items()}


def policy_wants_probe(policy: Policy) -> bool:
    """Whether the policy has the probe run."""
    return "probe" in policy.kinds


def _batch_input(data: Any) -> dict[str, Any]:
    """Return the whole batch's inputs, for digests of every sample."""
    inputs = data[0] if isinstance(data, tuple) else data
    return {
        f"{BATCH_INPUT}/{number}": tensor
        for number, (_, tensor) in enumerate(leaves(inputs))
        if tensor.dtype != tf.string
    }


def _loss_scale(optimizer: Any) -> Any:
    """Return what the optimizer multiplies the loss by, None where it does not."""
    dynamic = hasattr(optimizer, "inner_optimizer")
    if not dynamic and getattr(optimizer, "loss_scale_factor", None) is None:
        return None
    return tf.identity(optimizer.scale_loss(tf.constant(1.0)))
