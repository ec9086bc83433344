"""The traced training step: the model's own step, returning its taps beside its result."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import TYPE_CHECKING, Any

from steptrace_schema.errors import TraceError
from steptrace_schema.layout import safe_path
from steptrace_schema.names import LOSS, METRICS, X, Y
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.naming import Names, joined, leaves
from steptrace_tracer.probe import Probe
from steptrace_tracer.taps import NOT_NUMBERS, Tapping, Taps, storable

if TYPE_CHECKING:
    from collections.abc import Callable

    from steptrace_schema.attributes import Missing, Policy

ROWS = "rows"
BATCH_INPUT = "batch_input"
"""Keys of taps that the record needs and that are not arrays of the trace."""


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
        self._data_missing: tuple[Missing, ...] = ()

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
        probed = self.probe() if self.probe is not None else {}
        wall_time, start = time.time(), time.perf_counter()
        logs, tensors = self._function(data)
        duration = time.perf_counter() - start
        return StepResult(logs, {**tensors, **probed}, wall_time, duration)

    def missing(self) -> tuple[Missing, ...]:
        """Return what the last step has no data for, with reasons."""
        probed = self.probe.taps.missing_entries() if self.probe is not None else ()
        return (*self.taps.missing_entries(), *self._data_missing, *probed)

    def _compile(self, spec: Any) -> Any:
        if self._model.run_eagerly:
            return functools.partial(self._around, self._step)
        # As Keras does it: one function inside another, with the signature of the data set, so that
        # the same program is compiled.
        step = tf.function(
            self._step,
            reduce_retracing=True,
            jit_compile=self._model.jit_compile,
            autograph=False,
        )
        return tf.function(
            functools.partial(self._around, step),
            input_signature=None if spec is None else [spec],
            reduce_retracing=True,
            autograph=False,
        )

    def _around(self, step: Callable[[Any], Any], data: Any) -> tuple[Any, dict[str, Any]]:
        """Take what does not depend on how the step computes, so that its graph stays as it is.

        A random operation without a seed of its own is seeded by the number of operations that
        its graph has so far: reading the weights inside that graph would change the training.
        TensorFlow orders these reads before the step's assignments, since the step uses the same
        variables.
        """
        optimizer, policy = self._model.optimizer, self._policy
        rate = tf.cast(tf.identity(optimizer.learning_rate), tf.float32)
        before = self._weights()
        logs, tensors = step(data)
        tensors = tensors | {"scalars/learning_rate": rate}
        tensors |= {f"weights/{path}": tensor for path, tensor in before.items()}
        for path, after in (self._weights() if policy.every > 1 else {}).items():
            tensors[f"updates/{path}"] = after - before[path]
        return logs, tensors | self._data_taps(data) | _batch_input(data)

    def _step(self, data: Any) -> tuple[Any, dict[str, Any]]:
        self.traces += 1
        self.taps = taps = Taps()
        model = self._model
        with Tapping(model, self.names, self._policy, taps).installed():
            logs = model.train_step(data)
        scale = taps.scale
        if taps.target is None and taps.error is None:
            msg = (
                "the model's train_step differentiates no loss with respect to its weights by "
                "tf.GradientTape.gradient, so there are no gradients to record"
            )
            taps.error = TraceError(msg)
        if taps.error is not None:
            return logs, {}
        if scale is not None:
            for key, tensor in taps.tensors.items():
                if key.partition("/")[0] in {"gradients", "activation_gradients"} or key.startswith(
                    "inputs/x_gradient"
                ):
                    # float16 has no room for the scale, nor for all that is divided by it.
                    taps.tensors[key] = tf.cast(tensor, tf.float32) / scale
        loss = tf.cast(tf.reduce_sum(taps.target), tf.float32)
        taps.add("scalars", "loss", loss if scale is None else loss / scale)
        for name, metric in leaves(logs):
            if name == LOSS or metric.shape.rank != 0:
                continue  # Keras' loss is a mean over the epoch; the step's own is there already
            taps.add("scalars", f"{METRICS}/{safe_path(name)}", tf.cast(metric, tf.float32))
        return logs, {**taps.tensors, ROWS: taps.count_rows()}

    def _weights(self) -> dict[str, Any]:
        return {
            path: tf.identity(variable.value)
            for variable in self._model.weights
            if (path := self.names.weights.get(id(variable))) is not None
            and self._policy.covers("weights", path)
        }

    def _data_taps(self, data: Any) -> dict[str, Any]:
        taps = Taps()
        parts = data if isinstance(data, tuple) else (data,)
        for base, structure in zip((X, Y), parts, strict=False):
            for name, tensor in leaves(structure):
                place = joined(base, name)
                if not self._policy.covers("inputs", place):
                    continue
                if storable(tensor):
                    taps.add("inputs", place, tensor[: self._policy.samples])
                else:
                    taps.lacks("inputs", place, NOT_NUMBERS)
        self._data_missing = taps.missing_entries()
        return taps.tensors

    def present_weights(self) -> dict[str, Any]:
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
        if storable(tensor)
    }
