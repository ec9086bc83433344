"""Custom training loops that differentiate in other ways, continue, or are wrapped twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_analyzer import open_trace
from steptrace_schema.errors import NotATraceError, TraceError
from steptrace_schema.names import KINDS
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer
from two_layers import TwoLayers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEPS, BATCH, RATE = 4, 6, 0.05


def penalized() -> tuple[Any, Callable[..., Any]]:
    """Return a step whose loss holds a gradient of the model (Gulrajani et al. 2017)."""
    model, optimizer = mlp(), keras.optimizers.SGD(RATE)

    def train_step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(x)
                total = tf.reduce_sum(model(x, training=True))
            slope = inner.gradient(total, x)
            penalty = tf.reduce_mean(tf.square(tf.norm(slope, axis=1) - 1.0))
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y)) + penalty
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return model, train_step


def attacked() -> tuple[Any, Callable[..., Any]]:
    """Return a step that also trains on inputs moved by their gradient (Goodfellow et al. 2015)."""
    model, optimizer = mlp(), keras.optimizers.SGD(RATE)

    def loss_of(x: Any, y: Any) -> Any:
        return tf.reduce_mean(tf.square(model(x, training=True) - y))

    def train_step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as first:
            first.watch(x)
            clean = loss_of(x, y)
        moved = x + 0.1 * tf.sign(first.gradient(clean, x))
        with tf.GradientTape() as tape:
            loss = loss_of(x, y) + loss_of(moved, y)
        weights = model.trainable_variables
        optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    return model, train_step


def twice_differentiated() -> tuple[Any, Callable[..., Any]]:
    """Return a step that asks one persistent tape twice."""
    model, optimizer = mlp(), keras.optimizers.SGD(RATE)

    def train_step(x: Any, y: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            output = model(x, training=True)
            fit = tf.reduce_mean(tf.square(output - y))
            size = tf.reduce_mean(tf.abs(output))
        first = tape.gradient(fit, model.trainable_variables)
        second = tape.gradient(size, model.trainable_variables)
        gradients = [f + 0.1 * s for f, s in zip(first, second, strict=True)]
        optimizer.apply(gradients, model.trainable_variables)
        return fit

    return model, train_step


def batch(step: int) -> tuple[Any, Any]:
    x, y = vectors(2 * STEPS * BATCH)
    rows = slice(step * BATCH, (step + 1) * BATCH)
    return x[rows], y[rows]


def run(train_step: Callable[..., Any], first: int = 0, count: int = STEPS) -> list[float]:
    batches = (batch(step) for step in range(first, first + count))
    return [float(train_step(*map(tf.constant, pair))) for pair in batches]


def traced(path: Path, train_step: Callable[..., Any]) -> tuple[zarr.Group, list[float]]:
    with Tracer(
        path, kinds=KINDS, probe_gradients_every=1, on_error="raise", progress=False, samples=BATCH
    ) as tracer:
        losses = run(tracer.wrap(train_step))
    assert validate(path) == []
    return zarr.open_group(path, mode="r"), losses


def assert_same_training(left: Any, right: Any) -> None:
    for one, other in zip(weights_of(left), weights_of(right), strict=True):
        assert one.tobytes() == other.tobytes()


def traced_as_untraced(
    path: Path, make: Callable[[], tuple[Any, Callable[..., Any]]], *, compiled: bool
) -> tuple[Any, list[float]]:
    """Return the trace and losses of a training that is the same with and without the tracer."""
    (plain, plain_step), (model, step) = make(), make()
    if compiled:
        plain_step, step = tf.function(plain_step), tf.function(step)
    expected = run(plain_step)
    found, losses = traced(path, step)
    assert losses == expected
    assert_same_training(plain, model)
    return found, losses


@pytest.mark.parametrize("compiled", [False, True])
def test_the_gradient_of_inputs_that_an_earlier_tape_has_seen_is_that_of_the_loss(
    tmp_path: Path, compiled: bool
) -> None:
    found, _ = traced_as_untraced(tmp_path / "run.zarr", attacked, compiled=compiled)
    for t in range(STEPS):
        net = TwoLayers(found, t)
        x, y = batch(t)
        hidden, output = net.forward(x)
        toward_hidden = 2 * (output - y) / y.size @ net.out_kernel.T
        net.agrees("inputs/x_gradient", ((1 - hidden**2) * toward_hidden) @ net.kernel.T)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_gradient_penalty_is_recorded_and_not_changed(tmp_path: Path, compiled: bool) -> None:
    found, losses = traced_as_untraced(tmp_path / "run.zarr", penalized, compiled=compiled)
    assert np.asarray(found["scalars/loss"]).tolist() == losses
    for t in range(STEPS):
        net = TwoLayers(found, t)
        x, y = batch(t)
        hidden, output = net.forward(x)
        # d sum(output) / dx by the chain rule, and with it the loss and its gradients, by hand.
        width = net.out_kernel.sum(axis=1)
        slope = ((1 - hidden**2) * width) @ net.kernel.T
        length = np.linalg.norm(slope, axis=1, keepdims=True)
        residual = output - y
        loss = np.mean(residual**2) + np.mean((length - 1) ** 2)
        assert losses[t] == pytest.approx(loss, rel=1e-5)
        toward_slope = 2 * (length - 1) / length * slope / len(x)
        through_hidden = -2 * hidden * width * (toward_slope @ net.kernel)
        toward_output = 2 * residual / residual.size
        toward_hidden = toward_output @ net.out_kernel.T
        through_sums = [(1 - hidden**2) * part for part in (through_hidden, toward_hidden)]
        of_width = ((1 - hidden**2) * (toward_slope @ net.kernel)).sum(axis=0)
        net.agree_outputs(x)
        net.agrees("activations/mlp/hidden/call1_output", hidden)
        net.agrees("activations/mlp/out/call1_output", output)
        net.agrees("activation_gradients/mlp/hidden/output", through_hidden)
        net.agrees("activation_gradients/mlp/hidden/call1_output", toward_hidden)
        net.agrees("activation_gradients/mlp/out/call1_output", toward_output)
        net.agrees("gradients/mlp/out/bias", toward_output.sum(axis=0))
        net.agrees("gradients/mlp/out/kernel", hidden.T @ toward_output + of_width[:, np.newaxis])
        net.agrees("gradients/mlp/hidden/bias", sum(through_sums).sum(axis=0))
        net.agree_probe()
    weights = np.asarray(found["weights/mlp/hidden/kernel"])
    gradients = np.asarray(found["gradients/mlp/hidden/kernel"])
    np.testing.assert_allclose(weights[1:], weights[:-1] - RATE * gradients, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_persistent_tape_gives_the_sum_of_its_gradients(tmp_path: Path, compiled: bool) -> None:
    found, _ = traced_as_untraced(tmp_path / "run.zarr", twice_differentiated, compiled=compiled)
    for t in range(STEPS):
        net = TwoLayers(found, t)
        x, y = batch(t)
        _, output = net.forward(x)
        fit, size = float(np.mean((output - y) ** 2)), float(np.mean(np.abs(output)))
        net.agrees("scalars/losses/mlp", fit)
        net.agrees("scalars/losses/mlp_1", size)
        net.agrees("scalars/loss", fit + size)
        net.agree_outputs(x)
        net.agree_gradients(x, lambda out: (2 * (out - y) + np.sign(out)) / out.size)  # noqa: B023
        net.agree_probe()


def test_a_loop_goes_on_with_its_trace(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    (plain, plain_step), (model, step) = twice_differentiated(), twice_differentiated()
    run(plain_step, count=2 * STEPS)
    compiled = tf.function(step)
    for first in (0, STEPS):
        with Tracer(path, resume=True, on_error="raise", progress=False) as tracer:
            run(tracer.wrap(compiled), first)
    assert validate(path) == []
    found = zarr.open_group(path, mode="r")
    assert np.asarray(found["weights/step"]).tolist() == list(range(2 * STEPS + 1))
    assert np.asarray(found["scalars/step"]).tolist() == list(range(2 * STEPS))
    assert [event.step for event in read_attributes(path).events] == [STEPS]
    last = [np.asarray(found[f"weights/{v.path}"])[-1].tobytes() for v in model.weights]
    assert last == [weight.tobytes() for weight in weights_of(model)]
    for expected, weight in zip(weights_of(plain), weights_of(model), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-7)


def test_a_step_with_a_signature_is_traced_once_for_all_sizes_of_a_batch(tmp_path: Path) -> None:
    model, optimizer, calls = mlp(), keras.optimizers.SGD(RATE), []

    def train_step(x: Any, y: Any) -> Any:
        calls.append(x.shape)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    x, y = batch(0)
    signature = [tf.TensorSpec((None, 3)), tf.TensorSpec((None, 2))]
    with Tracer(tmp_path / "run.zarr", on_error="raise", progress=False) as tracer:
        step = tracer.wrap(tf.function(train_step, input_signature=signature))
        for size in (6, 4, 5):
            step(x[:size], y[:size])
    assert calls == [tf.TensorShape([None, 3])] * 2  # with its taps, and for the proof without
    found = zarr.open_group(tmp_path / "run.zarr", mode="r")
    assert np.asarray(found["scalars/batch_size"]).tolist() == [6, 4, 5]


def test_a_second_step_is_refused_while_the_first_one_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    model, train_step = penalized()
    model.compile("sgd", "mse")
    with Tracer(path, on_error="raise", progress=False) as tracer:
        step = tracer.wrap(train_step)
        with pytest.raises(TraceError, match=r"run\.zarr.*another training step.*close\(\)"):
            tracer.wrap(train_step)
        with pytest.raises(TraceError, match="another training step"):
            model.fit(*batch(0), verbose=0, callbacks=[tracer])
        run(step)
    assert validate(path) == []
    found = read_attributes(path)
    assert (found.status, found.steps_recorded["scalars"]) == ("complete", STEPS)
    with pytest.raises(NotATraceError, match=r"folder of one trace.*: run\.zarr"):
        open_trace(tmp_path)
