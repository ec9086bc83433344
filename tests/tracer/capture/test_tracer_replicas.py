"""Training on several replicas: two logical CPU devices in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from two_layers import TwoLayers

BATCH = 10
STEPS = 4

_SCRIPT = f"""
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import keras, numpy as np
from keras import layers
from keras_models import vectors, weights_of
from steptrace_schema.names import KINDS
from steptrace_tracer import Tracer

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x, y = vectors({BATCH * STEPS - 1})

def mlp():
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((3,)),
                layers.Dense(4, activation="tanh", name="hidden"),
                layers.BatchNormalization(),
                layers.Dropout(0.25),
                layers.Dense(2, name="out"),
            ],
            name="mlp",
        )
        model.compile(keras.optimizers.SGD(0.25), "mse", metrics=["mae"])
    return model

def fit(tracer):
    model = mlp()
    callbacks = [] if tracer is None else [tracer]
    model.fit(x, y, batch_size={BATCH}, epochs=1, shuffle=False, verbose=0, callbacks=callbacks)
    return weights_of(model)

def loop(tracer, parts=(slice(None),)):
    model = mlp()

    def on_replica(x, y):
        weights, sums = model.trainable_variables, []
        for rows in parts:
            with tf.GradientTape() as tape:
                out = model(x[rows], training=True)
                loss = tf.reduce_sum(tf.square(out - y[rows])) / {BATCH * 2}
            sums.append(tape.gradient(loss, weights))
        model.optimizer.apply([sum(found) for found in zip(*sums)], weights)
        return loss

    @tf.function
    def step(x, y):
        losses = strategy.run(on_replica, args=(x, y))
        return strategy.reduce("SUM", losses, axis=None)

    step = step if tracer is None else tracer.wrap(step)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch({BATCH})
    for xs, ys in strategy.experimental_distribute_dataset(batches):
        step(xs, ys)
    if tracer is not None:
        tracer.close()
    return weights_of(model)

def micro(tracer):
    return loop(tracer, (slice(None, 2), slice(2, None)))

def fused(tracer):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.applications.MobileNetV2((32, 32, 3), 0.35, weights=None, classes=2)
        model.compile("adam", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 32, 32, 3)).astype("f4"), rng.integers(0, 2, 16)
    callbacks = [] if tracer is None else [tracer]
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
    return weights_of(model)

train = dict(fit=fit, loop=loop, micro=micro, fused=fused)[sys.argv[2]]
plain = train(None)
policy = dict(kinds=KINDS, probe_gradients_every=1, samples=3)
if "auto" in sys.argv:
    policy = dict(every="auto")
traced = train(Tracer(sys.argv[1], on_error="raise", progress=False, **policy))
print(all(a.tobytes() == b.tobytes() for a, b in zip(plain, traced, strict=True)))
"""


@pytest.fixture(scope="module", params=["fit", pytest.param("loop", marks=pytest.mark.long)])
def trace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> zarr.Group:
    """Return the trace of a ``fit``, and of a custom training loop that calls ``strategy.run``."""
    path = tmp_path_factory.mktemp(request.param) / "run.zarr"
    arguments = [sys.executable, "-c", _SCRIPT, str(path), request.param]
    run = subprocess.run(arguments, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == "True", "the weights differ from those without the tracer"
    assert validate(path) == []
    assert [proof.identical for proof in read_attributes(path).proofs][:2] == [True, True]
    return zarr.open_group(path, mode="r")


@pytest.mark.long
def test_a_network_whose_normalisation_is_fused_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    arguments = [sys.executable, "-c", _SCRIPT, str(path), "fused"]
    run = subprocess.run(arguments, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == "True", "the weights differ from those without the tracer"
    assert read_attributes(path).proofs


def test_micro_batches_on_each_replica_are_recorded_without_what_has_other_rows(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run.zarr"
    arguments = [sys.executable, "-c", _SCRIPT, str(path), "micro"]
    run = subprocess.run(arguments, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == "True", "the weights differ from those without the tracer"
    assert validate(path) == []
    reasons = {f"{m.kind}/{m.path}": m.reason for m in read_attributes(path).missing}
    for key in ("inputs/x_gradient", "activations/mlp/out/output"):
        assert "does not count the samples" in reasons[key]


@pytest.mark.long
@pytest.mark.parametrize("way", ["fit", "loop"])
def test_an_interval_by_cost_changes_nothing(tmp_path: Path, way: str) -> None:
    path = tmp_path / "run.zarr"
    arguments = [sys.executable, "-c", _SCRIPT, str(path), way, "auto"]
    run = subprocess.run(arguments, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == "True", "the weights differ from those without the tracer"
    assert validate(path) == []
    (first, *_) = read_attributes(path).intervals
    assert (first.step, first.every) == (0, 2)
    steps = np.asarray(zarr.open_group(path, mode="r")["scalars/step"])
    assert 1 <= len(steps) < STEPS


def values(trace: zarr.Group, key: str) -> Any:
    return np.asarray(trace[key])


def test_the_rows_of_both_replicas_are_recorded_one_after_the_other(trace: zarr.Group) -> None:
    from keras_models import vectors

    x, y = vectors(BATCH * STEPS - 1)
    half = BATCH // 2
    for step in range(STEPS):
        size = min(BATCH, len(x) - step * BATCH)
        rows = step * BATCH + np.r_[0:3, half : half + 3]
        assert values(trace, "scalars/batch_size")[step] == size
        assert (values(trace, "inputs/x")[step] == x[rows]).all()
        assert (values(trace, "inputs/y")[step] == y[rows]).all()
    assert (values(trace, "inputs/sample_replica") == [0, 0, 0, 1, 1, 1]).all()


def test_outputs_are_those_of_the_replicas(trace: zarr.Group) -> None:
    for step in range(STEPS):
        kernel, bias = (values(trace, f"weights/mlp/hidden/{v}")[step] for v in ("kernel", "bias"))
        expected = np.tanh(values(trace, "inputs/x")[step] @ kernel + bias)
        found = values(trace, "activations/mlp/hidden/output")[step]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_probe_is_pushed_through_the_weights_of_the_step(trace: zarr.Group) -> None:
    for step in range(STEPS):
        TwoLayers(trace, step).agree_probe()


def test_gradients_are_those_that_the_optimizer_applies(trace: zarr.Group) -> None:
    for name in ("hidden/kernel", "hidden/bias", "out/kernel", "out/bias"):
        weights = values(trace, f"weights/mlp/{name}")
        gradients = values(trace, f"gradients/mlp/{name}")
        # Gradient descent by 0.25, a power of two, so that the product is exact.
        assert (weights[1:] == weights[:-1] - np.float32(0.25) * gradients).all()


def test_the_gradient_of_an_output_is_its_share_of_the_whole_batch(trace: zarr.Group) -> None:
    for step in range(STEPS - 1):
        out = values(trace, "activations/mlp/out/output")[step]
        y = values(trace, "inputs/y")[step]
        expected = 2.0 * (out - y) / (BATCH * y.shape[-1])
        found = values(trace, "activation_gradients/mlp/out/output")[step]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
