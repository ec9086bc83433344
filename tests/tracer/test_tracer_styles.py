"""Every kind of data of every style of ``fit``, against a replay by a second tape and NumPy."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import xxhash
import zarr

from capture_styles import BATCH, ROWS, STEPS, STYLES, Style
from keras_models import weights_of
from steptrace_schema.store import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

SAMPLES = 4


class Look(keras.callbacks.Callback):  # type: ignore[misc]
    """Copies all weights, and the learning rate, before each execution."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[list[Any]] = []
        self.rates: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.weights.append(weights_of(self.model))
        self.rates.append(float(self.model.optimizer.learning_rate))


@dataclasses.dataclass(frozen=True)
class Trace:
    """A finished trace with the model that it is of."""

    style: Style
    model: Any
    group: zarr.Group
    look: Look
    paths: dict[str, str]
    """Name of each layer to its path."""

    def __getitem__(self, key: str) -> Any:
        return np.asarray(self.group[key])

    def weights(self) -> list[Any]:
        """Return the model's variables that a trace has."""
        return [v for v in self.model.weights if f"weights/{v.path}" in self.group]


def fit(style: Style, callbacks: list[Any]) -> Any:
    keras.utils.set_random_seed(3)
    model = style.build()
    model.fit(
        style.x,
        style.y,
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
        **style.fit,
    )
    return model


@pytest.fixture(scope="module", params=STYLES, ids=lambda style: style.name)
def trace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    path, style, look = tmp_path_factory.mktemp("style") / "run.zarr", request.param, Look()
    model = fit(style, [Tracer(path, on_error="raise", progress=False), look])
    assert validate(path) == []
    paths = {layer.name: layer.path for layer in read_attributes(path).layers}
    return Trace(style, model, zarr.open_group(path, mode="r"), look, paths)


def test_the_weights_are_bit_identical_without_the_tracer(trace: Trace) -> None:
    plain = fit(trace.style, [])
    for left, right in zip(weights_of(plain), weights_of(trace.model), strict=True):
        assert left.tobytes() == right.tobytes()


def test_the_weights_are_those_that_a_callback_sees_and_move_by_the_formula(trace: Trace) -> None:
    every = trace.model.steps_per_execution
    for index, variable in enumerate(trace.weights()):
        recorded = trace[f"weights/{variable.path}"]
        assert len(recorded) == STEPS + 1
        seen = [weights[index] for weights in trace.look.weights]
        assert (recorded[:-1:every] == np.stack(seen)).all()
        if not trace.model.optimizer.use_ema:  # or averages are put in their place at the end
            assert (recorded[-1] == variable.numpy()).all()
    assert trace["scalars/learning_rate"][::every].tolist() == pytest.approx(trace.look.rates)
    if trace.style.updated is None:
        return
    for step in range(STEPS):
        weights, gradients = (
            {
                variable.path: trace[f"{kind}/{variable.path}"][step]
                for variable in trace.model.trainable_weights
            }
            for kind in ("weights", "gradients")
        )
        for path, expected in trace.style.updated(weights, gradients, step).items():
            np.testing.assert_allclose(trace[f"weights/{path}"][step + 1], expected, 1e-6, 1e-7)


@pytest.mark.parametrize("step", [0, STEPS - 1])
def test_every_tensor_of_a_step_equals_that_of_a_second_tape(trace: Trace, step: int) -> None:
    rows = slice(step * BATCH, min(ROWS, (step + 1) * BATCH))
    set_weights(trace, step)
    x, y = (tf.nest.map_structure(lambda a: a[rows], a) for a in (trace.style.x, trace.style.y))
    inputs = [tf.constant(a) for a in tf.nest.flatten(x)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        replay = Replay(training=True)
        outputs = replay.run(trace.model, inputs)
        loss = trace.style.loss(outputs, y, trace.style.weight[rows])
    variables = [v.value for v in trace.model.trainable_weights]
    names = list(replay.outputs)
    found = tape.gradient(loss, [*variables, *inputs, *replay.outputs.values()])
    # What a bfloat16 layer computes has eight bits.
    low = any(layer.compute_dtype == "bfloat16" for layer in trace.model.layers)
    rtol, atol = (0.02, 0.002) if low else (1e-4, 1e-6)

    assert trace["scalars/loss"][step] == pytest.approx(float(loss), rel=0.02 if low else 1e-5)
    assert trace["scalars/batch_size"][step] == rows.stop - rows.start
    keys = [f"gradients/{v.path}" for v in trace.model.trainable_weights]
    keys += [f"inputs/{name}" for name in named("x_gradient", trace.style.x)]
    keys += [f"activation_gradients/{trace.paths[name]}/output" for name in names]
    for key, expected in zip(keys, found, strict=True):
        kept = numpy(expected) if key.startswith("gradients/") else numpy(expected)[:SAMPLES]
        np.testing.assert_allclose(trace[key][step], kept, rtol, atol, err_msg=key)
    for name, output in replay.outputs.items():
        key = f"activations/{trace.paths[name]}/output"
        np.testing.assert_allclose(
            trace[key][step], numpy(output)[:SAMPLES], rtol, atol, err_msg=key
        )


def test_inputs_targets_and_digests_are_those_of_the_data(trace: Trace) -> None:
    for base, data in (("x", trace.style.x), ("y", trace.style.y)):
        for name, values in named(base, data).items():
            expected = np.stack([values[s * BATCH : s * BATCH + SAMPLES] for s in range(STEPS)])
            recorded = trace[f"inputs/{name}"]
            assert (recorded == expected.reshape(recorded.shape)).all()
    flat = [np.asarray(a) for a in tf.nest.flatten(trace.style.x)]
    expected_digests = []
    for row in range(ROWS):
        digest = xxhash.xxh3_64()
        for values in flat:
            digest.update(values[row].tobytes())
        expected_digests.append(digest.intdigest())
    digests = trace["inputs/sample_digest"].astype(np.uint64).reshape(-1)
    assert digests[:ROWS].tolist() == expected_digests


def test_the_probe_is_the_model_in_inference_mode(trace: Trace) -> None:
    set_weights(trace, 1)
    first = [tf.constant(a[:SAMPLES]) for a in tf.nest.flatten(trace.style.x)]
    replay = Replay(training=False)
    replay.run(trace.model, first)
    assert "hidden" in replay.preactivations or "deep" in replay.preactivations
    for name, before in replay.preactivations.items():
        path = trace.paths[name]
        low = before.dtype == tf.bfloat16
        rtol, atol = (0.02, 0.01) if low else (1e-4, 1e-6)
        for part, expected in (("preactivation", before), ("output", replay.outputs[name])):
            np.testing.assert_allclose(
                trace[f"probe/{path}/{part}"][1], numpy(expected), rtol, atol
            )


def test_statistics_are_those_of_the_recorded_tensors(trace: Trace) -> None:
    for kind in ("weights", "gradients", "activations"):
        values = trace.group[f"statistics/{kind}/values"]
        tensors, names = values.attrs["tensors"], values.attrs["statistics"]
        assert isinstance(tensors, list)
        assert isinstance(names, list)
        norms = np.asarray(values)[0, :, names.index("l2")]
        for path, norm in zip(tensors, norms, strict=True):
            data = trace[f"{kind}/{path}"][0].astype(np.float64)
            assert norm == pytest.approx(np.sqrt((data**2).sum()), rel=1e-6, abs=1e-9)


def set_weights(trace: Trace, step: int) -> None:
    for variable in trace.weights():
        variable.assign(trace[f"weights/{variable.path}"][step])


def named(base: str, structure: Any) -> dict[str, Any]:
    if isinstance(structure, dict):
        return {f"{base}_{name}": values for name, values in structure.items()}
    return {base: structure}


def numpy(tensor: Any) -> Any:
    dense = tf.convert_to_tensor(tensor)
    return (tf.cast(dense, tf.float32) if dense.dtype == tf.bfloat16 else dense).numpy()


class Replay:
    """Runs a Functional or Sequential model layer by layer, by its graph of layers.

    Attributes
    ----------
    outputs, preactivations
        Name of each layer to its output, and of each dense one with an activation to what goes
        into the activation.
    """

    def __init__(self, training: bool) -> None:
        self.training = training
        self.outputs: dict[str, Any] = {}
        self.preactivations: dict[str, Any] = {}

    def run(self, model: Any, inputs: list[Any]) -> list[Any]:
        """Return the outputs of `model`, one after the other."""
        graph = getattr(model, "_functional", None) or model
        values = dict(zip(map(id, graph.inputs), inputs, strict=True))
        for layer in graph.operations:
            if isinstance(layer, keras.layers.InputLayer):
                continue
            node = layer._inbound_nodes[-1]
            args, kwargs = node.arguments.fill_in(values)
            if isinstance(layer, keras.Model):
                (output,) = self.run(layer, list(args))
            else:
                if getattr(layer, "_call_has_training_arg", False):
                    kwargs["training"] = self.training
                output = layer(*args, **kwargs)
            self.outputs[layer.name] = output
            if isinstance(layer, keras.layers.Dense) and layer.activation.__name__ != "linear":
                kernel, bias = (tf.cast(v, layer.compute_dtype) for v in layer.weights)
                self.preactivations[layer.name] = (
                    tf.matmul(tf.cast(args[0], layer.compute_dtype), kernel) + bias
                )
            values[id(node.outputs[0])] = output
        return [values[id(output)] for output in graph.outputs]
