"""Every way to train with ``fit``: unchanged, and recorded as a second computation finds it."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr

from keras_models import weights_of
from steptrace_schema.names import KINDS
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer
from steptrace_tracer.capture.names import Names, leaves, walk_layers
from training_styles import COMPARED, SAMPLES, STYLES, Style

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

STEPS = 6


class Trace:
    """A finished trace with all kinds, and what of it has been compared."""

    def __init__(self, path: Path, model: Any) -> None:
        self.group = zarr.open_group(path, mode="r")
        self.attributes = read_attributes(path)
        self.names = Names.of(model)
        self.model = model
        self.compared: set[str] = set()
        self.missing = {f"{m.kind}/{m.path}" for m in self.attributes.missing}

    @functools.cache  # noqa: B019
    def values(self, key: str) -> npt.NDArray[Any]:
        return np.asarray(self.group[key])

    def agrees(self, key: str, step: int, expected: Any, tolerance: float) -> None:
        """Compare one row, as far as samples are recorded; what is missing is missing."""
        self.compared.add(key)
        layer = key.rpartition("/")[0]
        if key in self.missing or f"{layer}/output" in self.missing:
            return
        found = self.values(key)[step]
        wanted = np.asarray(
            tf.cast(expected, tf.float32) if expected.dtype == tf.bfloat16 else expected
        )
        part = found[tuple(slice(0, n) for n in wanted.shape)]
        assert part.shape == wanted.shape, key
        # What cancels to zero is as exact as its summands, which are of the order of 1e-2 here.
        scale = max(float(np.abs(wanted).max(initial=0.0)), 1e-2)
        np.testing.assert_allclose(
            part, wanted, rtol=tolerance, atol=tolerance * scale, err_msg=f"{key} at step {step}"
        )


def outputs_of(model: Any, run: Any) -> dict[str, Any]:
    """Call `run` and return each layer's outputs, ``<number of the layer>/<call>/<leaf>``."""
    found: dict[str, Any] = {}
    calls: dict[int, int] = {}

    def seen(number: int, call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            count = calls[number] = calls.get(number, -1) + 1
            prefix = f"call{count}_" if count else ""
            for name, tensor in leaves(output):
                found[f"{number}/{prefix}output{'_' + name if name else ''}"] = tensor
            return output

        return wrapped

    with ExitStack() as stack:
        for number, (layer, _) in enumerate(walk_layers(model)):
            object.__setattr__(layer, "call", seen(number, layer.call))
            stack.callback(object.__delattr__, layer, "call")
        run()
    return found


def replay(style: Style, trace: Trace) -> None:
    """Compute every step again, operation by operation, from the weights that are recorded."""
    model, batches = style.build(), style.batches()
    if not model.built:
        model(tf.nest.map_structure(tf.constant, batches[0][0]))
    layer_paths = [trace.names.layers[id(layer)] for layer, _ in walk_layers(trace.model)]
    weight_paths = [trace.names.weights[id(v)] for v in trace.model.weights]
    names = dict(zip((id(v) for v in model.weights), weight_paths, strict=True))
    initial = [v.numpy() for v in style.build().weights] if style.build().built else None
    for step in range(STEPS):
        x, y, *rest = tf.nest.map_structure(tf.constant, batches[step % len(batches)])
        if not rest and "class_weight" in style.fit:
            rest = [tf.gather([0.5, 2.0], y)]
        for index, variable in enumerate(model.weights):
            key = f"weights/{weight_paths[index]}"
            if key in trace.missing:
                continue
            value = trace.values(key)[step]
            if step == 0 and initial is not None:
                assert value.tobytes() == initial[index].tobytes(), key
            trace.compared.add(key)
            variable.assign(value)
        if step == 0:
            replay_probe(style, trace, model, layer_paths)
        inputs = [leaf for _, leaf in leaves(x)]
        scale = 256.0 if "float16, loss" in style.name else 1.0
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([tensor for tensor in inputs if tensor.dtype.is_floating])
            box: list[Any] = []
            outputs = outputs_of(model, lambda: box.append(model(x, training=True)))  # noqa: B023
            loss = model.compute_loss(
                x=x, y=y, y_pred=box[0], sample_weight=rest[0] if rest else None
            )
            target = loss * scale
        assert trace.values("scalars/loss")[step] == pytest.approx(float(loss), rel=style.tolerance)
        for variable in model.trainable_variables:
            gradient = tape.gradient(target, variable.value)
            if gradient is not None:
                dense = tf.cast(tf.convert_to_tensor(gradient), tf.float32) / scale
                trace.agrees(f"gradients/{names[id(variable)]}", step, dense, style.tolerance)
        for key, tensor in outputs.items():
            number, _, leaf = key.partition("/")
            place = f"{layer_paths[int(number)]}/{leaf}"
            trace.agrees(f"activations/{place}", step, tensor, style.tolerance)
            gradient = tape.gradient(target, tensor)
            if gradient is not None:
                dense = tf.cast(gradient, tf.float32) / scale
                trace.agrees(f"activation_gradients/{place}", step, dense, style.tolerance)
        for base, structure in (("x", x), ("y", y)):
            for name, tensor in leaves(structure):
                key = f"inputs/{base}{'_' + name if name else ''}"
                trace.agrees(key, step, tensor, 0.0)
                if base == "x" and tensor.dtype.is_floating:
                    gradient = tape.gradient(target, tensor)
                    if gradient is not None:
                        dense = tf.cast(gradient, tf.float32) / scale
                        key = key.replace("inputs/x", "inputs/x_gradient")
                        trace.agrees(key, step, dense, style.tolerance)


def replay_probe(style: Style, trace: Trace, model: Any, layer_paths: list[str]) -> None:
    """Compute the probe of the first step again, and the saliency of each activation."""
    x = tf.nest.map_structure(tf.constant, style.batches()[0][0])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([tensor for _, tensor in leaves(x) if tensor.dtype.is_floating])
        outputs = outputs_of(model, lambda: model(x, training=False))
        targets = {}
        for key, tensor in outputs.items():
            units = tf.reduce_mean(tensor, axis=list(range(1, tensor.shape.rank - 1)))
            targets[key] = tf.reduce_sum(tf.reduce_max(units, axis=-1))
    for key, tensor in outputs.items():
        number, _, leaf = key.partition("/")
        layer = layer_paths[int(number)]
        if f"probe/{layer}/{leaf}" in trace.group:
            trace.agrees(f"probe/{layer}/{leaf}", 0, tensor, style.tolerance)
        for name, part in leaves(x) if leaf == "output" else ():
            place = f"probe_gradients/{layer}/saliency{'_' + name if name else ''}"
            if place in trace.group and part.dtype.is_floating:
                gradient = tape.gradient(targets[key], part)
                trace.agrees(place, 0, gradient, style.tolerance)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("styles")


@pytest.mark.sampled(4)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras
@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_a_style_is_recorded_as_a_second_computation_finds_it_and_not_changed(
    folder: Path, style: Style
) -> None:
    path = folder / f"{STYLES.index(style)}.zarr"
    keras.utils.clear_session()
    plain = style.train([])
    keras.utils.clear_session()
    policy: Any = {"kinds": KINDS, "probe_gradients_every": 1, "samples": SAMPLES}
    tracer = Tracer(path, on_error="raise", progress=False, **policy)
    model = style.train([tracer])
    for expected, weight in zip(weights_of(plain), weights_of(model), strict=True):
        assert expected.tobytes() == weight.tobytes()
    assert validate(path) == []
    trace = Trace(path, model)
    unexpected = {
        f"{m.kind}/{m.path}: {m.reason}"
        for m in trace.attributes.missing
        if not any(fnmatch(f"{m.kind}/{m.path}", pattern) for pattern in style.missing)
    }
    assert not unexpected
    assert trace.values("scalars/step").tolist() == list(range(STEPS))
    replay(style, trace)
    for variable in model.weights if style.kept_weights else ():
        key = f"weights/{trace.names.weights[id(variable)]}"
        if key not in trace.missing:
            assert trace.values(key)[-1].tobytes() == variable.numpy().tobytes()
    lacking = {kind for kind, _ in style.lacks}
    for kind in COMPARED:
        assert any(key.startswith(f"{kind}/") for key in trace.compared) == (kind not in lacking)
    # Nothing is recorded that the second computation does not know of.
    declared = {
        f"{kind}/{path}"
        for kind in ("weights", "gradients", "activations", "activation_gradients")
        for path in trace.attributes.declared[kind]
    }
    unknown = declared - trace.compared - trace.missing
    assert all("/logits" in key for key in unknown), unknown
    slots = [p for p in trace.attributes.declared["optimizer"] if p.endswith("/momentum")]
    assert slots
    if "accumulation" not in style.name and "clipping" not in style.name:
        for slot in slots:
            check_momentum(trace, slot, style.tolerance)


def check_momentum(trace: Trace, slot: str, tolerance: float) -> None:
    """Compare the momentum of Adam with its formula (Kingma and Ba, 2015)."""
    gradients = trace.values(f"gradients/{slot.rpartition('/')[0]}").astype(np.float64)
    found = trace.values(f"optimizer/{slot}")
    expected = np.zeros_like(gradients[0])
    for step in range(STEPS):
        scale = max(float(np.abs(expected).max(initial=0.0)), 1e-3)
        np.testing.assert_allclose(
            found[step], expected, rtol=tolerance, atol=tolerance * scale, err_msg=slot
        )
        expected = expected + (gradients[step] - expected) * 0.1
