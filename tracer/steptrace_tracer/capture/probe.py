"""The probe: a few fixed inputs pushed through the model in inference mode.

It is a separate function, so it changes nothing in the training graph. Tapped inside the training
graph, pre-activations would keep convolution, bias and activation from being fused, and so change
the last bits of the training.
"""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.format.attributes import Missing
from steptrace_schema.human import one_line, without_colours
from steptrace_schema.names import (
    OUTPUT,
    PREACTIVATION,
    X,
)
from steptrace_tracer._tensorflow import keras, tf
from steptrace_tracer.capture.batch_rows import first_rows
from steptrace_tracer.capture.building import left_unbuilt
from steptrace_tracer.capture.names import Names, inside_recurrent, joined, leaves, walk_layers
from steptrace_tracer.capture.rebinding import rebound
from steptrace_tracer.capture.replicas import first_replica
from steptrace_tracer.capture.state import outside_effect
from steptrace_tracer.capture.taps import (
    NOT_NUMBERS,
    NOT_SAMPLES,
    Taps,
    current_graph,
    storable,
)
from steptrace_tracer.keras_private import draws_apart

if TYPE_CHECKING:
    from collections.abc import Callable

    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.capture.program import Program

_ACTIVATION_LAYERS = ("ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax")
"""Layers that are an activation function and have no attribute ``activation``."""

_IN_A_LOOP = "the activation runs inside a loop of the graph, where its tensors cannot be returned"
_A_LAYER = "a layer of the model has this name"
_NO_BATCH = "the step finds its batch itself; give Tracer(probe=...)"
_NO_CALL = "the model has no call, so that the probe cannot run it"
_OTHER_MODEL = "the probe runs the first model of the step alone, and this is another one"
_LONGEST_MESSAGE = 2000
_NOT_CALLED = "the layer's activation function is not called in inference mode"


def activation_name(layer: Any) -> str | None:
    """Return the name of the layer's activation function, None where it has none.

    Examples
    --------
    >>> activation_name(keras.layers.Dense(1, activation="relu"))  # doctest: +SKIP
    'relu'
    """
    if type(layer).__name__ in _ACTIVATION_LAYERS:
        return str(type(layer).__name__)
    function = getattr(layer, "activation", None)
    if not callable(function) or function is keras.activations.linear:
        return None
    return str(getattr(function, "__name__", type(function).__name__))


class Probe:
    """Pre-activations and outputs of every activation function, for fixed inputs.

    Parameters
    ----------
    model
        A built Keras model.
    names
        The paths of its layers.
    policy
        What to keep.
    x
        The probe's inputs, in the structure that the model takes.

    Attributes
    ----------
    samples
        The number of their samples, as a shape of one dimension.
    """

    def __init__(self, model: Any, names: Names, policy: Policy, x: Any) -> None:
        self.model = model
        self._names = names
        self._policy = policy
        self.x = tf.nest.map_structure(_as_tensor, x)
        self.samples = tf.nest.flatten(self.x)[0].shape[:1]
        self.taps = Taps()
        self._sized_when_run: set[str] = set()
        self._of_other_rows: set[str] = set()
        self._of_these_rows: set[str] = set()
        self._function = self._compiled()

    def _compiled(self) -> Any:
        # A partial is new to TensorFlow, which else warns of retracing when many models are traced.
        run = functools.partial(self._run)
        return run if self.model.run_eagerly else tf.function(run, autograph=False)

    def begin(self) -> None:
        """Run once; leave out what then has other rows than the samples.

        Behind some layers, such as ``TextVectorization``, only running shows how many there are.
        """
        tensors = self()
        self._of_other_rows = {
            place
            for place in self._sized_when_run
            if tensors[f"probe/{place}"].shape[:1] != self.samples
        }
        self._of_these_rows = self._sized_when_run - self._of_other_rows
        if self._of_other_rows:
            self._function = self._compiled()

    def __call__(self) -> dict[str, Any]:
        """Run the probe with the model's present weights; return ``probe/path`` to tensor."""
        result: dict[str, Any] = self._function(self.x)
        return result

    def outside_effect(self) -> str | None:
        """Return what running the probe does to more than variables; None where nothing."""
        if not hasattr(self._function, "get_concrete_function"):
            return None
        return outside_effect(self._function.get_concrete_function(self.x))

    def inputs(self) -> dict[str, Any]:
        """Return the probe's inputs, ``probe/x`` to tensor."""
        return {
            f"probe/{joined(X, name)}": tensor
            for name, tensor in leaves(self.x)
            if storable(tensor) and joined(X, name) not in self._called_as_layers()
        }

    def _called_as_layers(self) -> set[str]:
        """Return the names of inputs that layers have, too: no array can stand beside these."""
        groups = {path.partition("/")[0].lower() for path in self._names.layers.values()}
        names = {joined(X, name) for name, _ in leaves(self.x)}
        return {name for name in names if name.lower() in groups}

    def forward(self, x: Any, taps: Taps) -> dict[str, Any]:
        """Run the model on `x` in inference mode, and keep what the policy covers in `taps`.

        Returns the output of each layer's activation function, path of the layer to tensor.
        """
        activations: dict[str, Any] = {}
        counts: Counter[str] = Counter()
        scope = current_graph()
        layers = [layer for layer, _ in walk_layers(self.model) if activation_name(layer)]
        in_loops = inside_recurrent(self.model) | {
            id(layer) for layer in layers if isinstance(layer, keras.layers.RNN)
        }
        with ExitStack() as stack:
            for layer in layers:
                if id(layer) not in in_loops:
                    name = "activation" if "activation" in vars(layer) else "call"
                    wrap = self._wrap(layer, taps, activations, counts, scope)
                    stack.enter_context(rebound(layer, name, wrap))
            # What the model assigns to variables inside this scope, such as the seeds of its
            # random layers, is forgotten.
            stack.enter_context(keras.StatelessScope())
            if tf.executing_eagerly():
                stack.enter_context(draws_apart())
            stack.enter_context(left_unbuilt(self.model))
            if "training" in inspect.signature(self.model.call).parameters:
                self.model(x, training=False)
            else:
                self.model(x)
        for layer in layers:
            path = self._names.layers[id(layer)]
            if not counts[path]:
                reason = _IN_A_LOOP if id(layer) in in_loops else _NOT_CALLED
                for part in (PREACTIVATION, OUTPUT):
                    if self._policy.covers("probe", f"{path}/{part}"):
                        taps.explain_missing("probe", f"{path}/{part}", reason)
        return activations

    def _run(self, x: Any) -> dict[str, Any]:
        self.taps = Taps()
        for name in self._called_as_layers():
            if self._policy.covers("probe", name):
                self.taps.explain_missing("probe", name, _A_LAYER)
        self.forward(x, self.taps)
        return self.taps.tensors

    def _wrap(
        self,
        layer: Any,
        taps: Taps,
        activations: dict[str, Any],
        counts: Counter[str],
        scope: Any,
    ) -> Callable[[Any], Any]:
        path = self._names.layers[id(layer)]

        def wrap(function: Any) -> Any:
            def tapped(x: Any, *args: Any, **kwargs: Any) -> Any:
                output = function(x, *args, **kwargs)
                prefix = f"call{counts[path]}_" if counts[path] else ""
                counts[path] += 1
                for part, tensor in ((PREACTIVATION, x), (OUTPUT, output)):
                    place = f"{path}/{prefix}{part}"
                    if not self._policy.covers("probe", place):
                        continue
                    if current_graph() is not scope:
                        taps.explain_missing("probe", place, _IN_A_LOOP)
                    elif not storable(tensor):
                        taps.explain_missing("probe", place, NOT_NUMBERS)
                    elif not self._counts_samples(place, tensor):
                        taps.explain_missing("probe", place, NOT_SAMPLES)
                    else:
                        taps.add("probe", place, tensor)
                if prefix == "" and storable(output) and output.dtype.is_floating:
                    activations[path] = self._sized(f"{path}/{OUTPUT}", output)
                return output

            return tapped

        return wrap

    def _counts_samples(self, place: str, tensor: Any) -> bool:
        """Whether a tensor has a row for each sample, or may have, as far as is known."""
        if tensor.shape[:1].is_fully_defined():
            return bool(tensor.shape[:1] == self.samples)
        self._sized_when_run.add(place)
        return place not in self._of_other_rows

    def has_other_rows(self, place: str) -> bool:
        """Whether a tensor had other rows than the samples when the probe ran."""
        return place in self._of_other_rows

    def _sized(self, place: str, tensor: Any) -> Any:
        """Return a tensor with as many rows as it had when the probe ran."""
        if tensor.shape.rank is None or place not in self._of_these_rows:
            return tensor
        return tf.ensure_shape(tensor, [*self.samples, *tensor.shape[1:]])


def working_probe(
    program: Program,
    names: Names,
    policy: Policy,
    inputs: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Probe | None, tuple[Missing, ...]]:
    """Return a probe of the main model that has run once, or why there is none.

    Parameters
    ----------
    program, names, policy
        As :class:`Probe` takes them; the first of the models is probed.
    inputs
        The probe's inputs; None for the first samples of the batch.
    args, kwargs
        The arguments of the step, which hold the batch.
    """
    model, others = program.models[0], _of_other_models(program, names, policy)
    if type(model).call is keras.Model.call:
        return None, (Missing(kind="probe", path=X, reason=_NO_CALL), *others)
    what, remedy = "the inputs of the probe", "give others with Tracer(probe=...)"
    if inputs is None:
        x = program.batch(*args, **kwargs).x
        if x is None:
            return None, (Missing(kind="probe", path=X, reason=_NO_BATCH), *others)
        if program.strategy is not None:
            x = first_replica(program.strategy, x)
        inputs = tf.nest.map_structure(lambda part: first_rows(part, policy.sample_count), x)
        what, remedy = "the batch", "give Tracer(probe=...)"
    try:
        probe = Probe(model, names, policy, inputs)
        effect = probe.outside_effect()
        if effect is None:
            probe.begin()
    except Exception as error:
        # What a step is trained on need not be what its model is called with.
        said = without_colours(str(error))
        whole = one_line(" ".join(said.split()), _LONGEST_MESSAGE)
        reason = (
            f"the model cannot be called with {what} ({type(error).__name__}: {whole}); {remedy}"
        )
        return None, (Missing(kind="probe", path=X, reason=reason), *others)
    if effect is None:
        return probe, others
    reason = f"the model is not run a second time, because {effect}"
    return None, (Missing(kind="probe", path=X, reason=reason), *others)


def _of_other_models(program: Program, names: Names, policy: Policy) -> tuple[Missing, ...]:
    """Return the activation functions of the models that are not probed, with the reason."""
    first, *others = ([layer for layer, _ in walk_layers(m)] for m in program.models)
    probed = {id(layer) for layer in first}
    layers = {id(layer): layer for found in others for layer in found if activation_name(layer)}
    return tuple(
        Missing(kind="probe", path=path, reason=_OTHER_MODEL)
        for key, layer in layers.items()
        if key not in probed
        for part in (PREACTIVATION, OUTPUT)
        if policy.covers("probe", path := f"{names.layers[id(layer)]}/{part}")
    )


def same_inputs(one: Any, other: Any) -> bool:
    """Whether two structures of inputs are known to hold the same numbers."""
    left, right = (tf.nest.flatten(found, expand_composites=True) for found in (one, other))
    return len(left) == len(right) and all(
        r is not None and np.array_equal(np.asarray(x), np.asarray(r), equal_nan=_is_floating(x))
        for x, r in zip(left, right, strict=True)
    )


def _as_tensor(part: Any) -> Any:
    is_composite = isinstance(part, (tf.RaggedTensor, tf.SparseTensor))
    return part if is_composite else tf.convert_to_tensor(part)


def _is_floating(tensor: Any) -> bool:
    return bool(tf.as_dtype(tensor.dtype).is_floating)
