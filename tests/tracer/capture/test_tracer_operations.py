"""Outputs of operations that are no layers, and what recurrent layers carry, are recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr
from keras import layers, ops

from keras_models import MODES, Mode, compile_for, weights_of
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 8


def data() -> tuple[list[Any], Any]:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(2 * ROWS, 3)).astype(np.float32) for _ in range(2))
    return [a, b], rng.uniform(size=(2 * ROWS, 1)).astype(np.float32)


def siamese(mode: Mode) -> Any:
    """Return the distance of two embeddings, whose last layers are functions of keras.ops."""
    keras.utils.set_random_seed(3)
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    embed = layers.Dense(4, activation="tanh", name="embed")
    distance = ops.sqrt(ops.sum((embed(a) - embed(b)) ** 2, axis=-1, keepdims=True))
    model = keras.Model([a, b], distance, name="siamese")
    return compile_for(model, mode, keras.optimizers.SGD(0.1), "mse")


@pytest.mark.parametrize("mode", MODES)
def test_operations_of_a_functional_model_are_recorded_and_not_changed(
    tmp_path: Path, mode: Mode
) -> None:
    path = tmp_path / "run.zarr"
    x, y = data()
    settings: dict[str, Any] = {"batch_size": ROWS, "shuffle": False, "verbose": 0}
    plain, model = siamese(mode), siamese(mode)
    plain.fit(x, y, **settings)
    tracer = Tracer(path, samples=ROWS, on_error="raise", progress=False)
    model.fit(x, y, callbacks=[tracer], **settings)
    for one, other in zip(weights_of(plain), weights_of(model), strict=True):
        assert one.tobytes() == other.tobytes()
    assert validate(path) == []
    attributes = read_attributes(path)
    # The probe differentiates a layer's first call alone, which takes one of the two inputs.
    assert {entry.kind for entry in attributes.missing} <= {"probe_gradients"}
    found = {layer.class_name: layer for layer in attributes.layers}
    assert list(found) == ["Dense", "Subtract", "Power", "Sum", "Sqrt"]
    assert found["Sum"].inputs == (found["Power"].path,)
    group: Any = zarr.open_group(path, mode="r")

    def recorded(kind: str, name: str) -> Any:
        return np.asarray(group[f"{kind}/{found[name].path}/output"])

    for step in range(2):
        kernel, bias = (np.asarray(group[f"weights/embed/{n}"])[step] for n in ("kernel", "bias"))
        left, right = (part[ROWS * step : ROWS * (step + 1)] for part in x)
        difference = np.tanh(left @ kernel + bias) - np.tanh(right @ kernel + bias)
        squares = (difference**2).sum(axis=-1, keepdims=True)
        distance = np.sqrt(squares)
        by_loss = 2 / ROWS * (distance - y[ROWS * step : ROWS * (step + 1)])
        expected = {
            "Subtract": (difference, by_loss / (2 * distance) * 2 * difference),
            "Power": (difference**2, by_loss / (2 * distance) * np.ones_like(difference)),
            "Sum": (squares, by_loss / (2 * distance)),
            "Sqrt": (distance, by_loss),
        }
        for name, (output, gradient) in expected.items():
            close: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-5}
            np.testing.assert_allclose(recorded("activations", name)[step], output, **close)
            by = recorded("activation_gradients", name)[step]
            np.testing.assert_allclose(by, gradient, **close)


def test_an_operation_without_samples_is_missing_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    keras.utils.set_random_seed(3)
    x = keras.Input((3,))
    scores = layers.Dense(2, name="scores")(x)
    model = keras.Model(x, scores / ops.max(ops.abs(scores)), name="scaled")
    model.compile("sgd", "mse")
    (a, _), _ = data()
    tracer = Tracer(path, on_error="raise", progress=False)
    model.fit(a, a[:, :2], batch_size=ROWS, verbose=0, callbacks=[tracer])
    (maximum,) = (o.path for o in read_attributes(path).layers if o.class_name == "Max")
    missing = {(m.kind, m.path): m.reason for m in read_attributes(path).missing}
    for kind in ("activations", "activation_gradients"):
        assert "does not count the samples" in missing[kind, f"{maximum}/output"]


def stateful(mode: Mode) -> Any:
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((5, 3), batch_size=4),
            layers.LSTM(2, stateful=True, name="lstm"),
            layers.Dense(1, name="out"),
        ],
        name="net",
    )
    return compile_for(model, mode, keras.optimizers.SGD(0.1), "mse")


@pytest.mark.parametrize("mode", ["compiled", "eager"])
def test_the_state_that_a_recurrent_layer_carries_is_recorded_and_not_changed(
    tmp_path: Path, mode: Mode
) -> None:
    path = tmp_path / "run.zarr"
    x = np.random.default_rng(0).normal(size=(12, 5, 3)).astype(np.float32)
    settings: dict[str, Any] = {"batch_size": 4, "shuffle": False, "verbose": 0}
    plain, model = stateful(mode), stateful(mode)
    plain.fit(x, x[:, 0, :1], **settings)
    tracer = Tracer(path, samples=4, on_error="raise", progress=False)
    model.fit(x, x[:, 0, :1], callbacks=[tracer], **settings)
    states = [layer.get_layer("lstm").states for layer in (plain, model)]
    for one, other in zip(*(map(np.asarray, found) for found in states), strict=True):
        assert one.tobytes() == other.tobytes()
    for before, after in zip(weights_of(plain), weights_of(model), strict=True):
        assert before.tobytes() == after.tobytes()
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    outputs = np.asarray(group["activations/net/lstm/output"])
    hidden, cell = (np.asarray(group[f"activations/net/lstm/carried_{n}"]) for n in (0, 1))
    assert not hidden[0].any()
    assert not cell[0].any()
    assert cell[1].any()
    # The output of an LSTM is its state: what a batch ends with, the next one begins with.
    np.testing.assert_allclose(hidden[1:], outputs[:-1], rtol=1e-6, atol=1e-7)


def test_the_activations_of_a_model_that_is_not_probed_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    keras.utils.set_random_seed(3)
    one, two = (
        keras.Sequential(
            [keras.Input((3,)), layers.Dense(2, activation="tanh", name="dense")], name=name
        )
        for name in ("one", "two")
    )
    optimizer = keras.optimizers.SGD(0.1)

    def step(x: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((one(x) - two(x)) ** 2)
        weights = one.trainable_weights + two.trainable_weights
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    with Tracer(path, on_error="raise", progress=False) as tracer:
        wrapped = tracer.wrap(step, models=[one, two], optimizers=[optimizer])
        wrapped(tf.constant(data()[0][0]))
    missing = {(m.kind, m.path): m.reason for m in read_attributes(path).missing}
    for part in ("preactivation", "output"):
        assert "first model" in missing["probe", f"two/dense/{part}"]
        assert ("probe", f"one/dense/{part}") not in missing
