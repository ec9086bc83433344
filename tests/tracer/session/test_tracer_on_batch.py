"""Loops of ``train_on_batch``: every update of a model is a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import zarr
from keras import layers

from keras_models import MODES, Mode, mlp, vectors, weights_of
from steptrace_schema.names import KINDS
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer
from two_layers import TwoLayers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEPS, BATCH = 4, 6


def batches() -> list[tuple[Any, Any]]:
    x, y = vectors(STEPS * BATCH)
    return [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(x), BATCH)]


def by_method(model: Any) -> Callable[[Any, Any], Any]:
    step: Callable[[Any, Any], Any] = model.train_on_batch
    return step


def by_function(model: Any) -> Callable[[Any, Any], Any]:
    return lambda x, y: model.train_on_batch(x, y, return_dict=True)


def by_inner_function(model: Any) -> Callable[[Any, Any], Any]:
    def inner(x: Any, y: Any) -> Any:
        return model.train_on_batch(x, y)

    return lambda x, y: inner(x, y)


MAKERS = (by_method, by_function, by_inner_function)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("maker", MAKERS)
def test_a_loop_of_train_on_batch_is_recorded_and_not_changed(
    tmp_path: Path, maker: Callable[[Any], Callable[[Any, Any], Any]], mode: Mode
) -> None:
    if mode != "compiled" and maker is not by_method:
        pytest.skip("the ways to call it differ in Python alone")
    plain, model, path = mlp(mode), mlp(mode), tmp_path / "run.zarr"
    expected = [plain.train_on_batch(x, y) for x, y in batches()]
    with Tracer(
        path, kinds=KINDS, probe_gradients_every=1, on_error="raise", progress=False, samples=BATCH
    ) as tracer:
        step = tracer.wrap(maker(model))
        found = [step(x, y) for x, y in batches()]
    losses = [value["loss"] if isinstance(value, dict) else value for value in found]
    assert losses == expected
    for one, other in zip(weights_of(plain), weights_of(model), strict=True):
        assert one.tobytes() == other.tobytes()
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    assert np.asarray(group["weights/step"]).tolist() == list(range(STEPS + 1))
    for t, (x, y) in enumerate(batches()):
        net = TwoLayers(group, t)
        net.agrees("scalars/loss", float(np.mean((net.forward(x)[1] - y) ** 2)))
        assert net.row("inputs/y").tobytes() == y.tobytes()
        net.agree_outputs(x)
        net.agree_gradients(x, lambda out: 2 * (out - y) / y.size)  # noqa: B023
        net.agree_probe()


def test_the_train_function_is_the_models_own_between_the_calls(tmp_path: Path) -> None:
    model = mlp()
    x, y = batches()[0]
    with Tracer(tmp_path / "run.zarr", on_error="raise", progress=False) as tracer:
        step = tracer.wrap(model.train_on_batch)
        step(x, y)
        before = weights_of(model)
        model.train_on_batch(x, y)  # not wrapped, so no step of the trace
        assert before[0].tobytes() != weights_of(model)[0].tobytes()
        step(x, y)
    group: Any = zarr.open_group(tmp_path / "run.zarr", mode="r")
    assert np.asarray(group["scalars/step"]).tolist() == [0, 1]


def gan() -> tuple[Any, Any, Any, Callable[[Any], Any]]:
    """Return generator, discriminator, both as one model, and a step that updates three times."""
    keras.utils.set_random_seed(5)
    generator = keras.Sequential(
        [keras.Input((2,)), layers.Dense(3, name="make")], name="generator"
    )
    discriminator = keras.Sequential(
        [keras.Input((3,)), layers.Dense(1, activation="sigmoid", name="judge")],
        name="discriminator",
    )
    discriminator.compile(keras.optimizers.SGD(0.1), "binary_crossentropy")
    both = keras.Sequential([generator, discriminator], name="both")
    both.build((None, 2))
    both.compile(keras.optimizers.SGD(0.2), "binary_crossentropy")
    rng = np.random.default_rng(3)

    def step(real: Any) -> Any:
        noise = rng.normal(size=(len(real), 2)).astype(np.float32)
        ones = np.ones((len(real), 1), np.float32)
        fake = np.asarray(generator(noise))
        discriminator.trainable = True
        first = discriminator.train_on_batch(real, ones)
        second = discriminator.train_on_batch(fake, 0 * ones)
        discriminator.trainable = False  # as both models' step is compiled
        return first, second, both.train_on_batch(noise, ones)

    return generator, discriminator, both, step


def test_every_update_of_a_gan_of_compiled_models_is_a_step(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    *plain, _, plain_step = gan()
    generator, discriminator, both, step = gan()
    with Tracer(
        path, kinds=KINDS, probe_gradients_every=1, on_error="raise", progress=False, samples=BATCH
    ) as tracer:
        wrapped = tracer.wrap(
            step,
            models=[generator, discriminator],
            optimizers=[both.optimizer, discriminator.optimizer],
        )
        for x, _ in batches():
            assert wrapped(x) == plain_step(x)
    for one, other in zip(plain, (generator, discriminator), strict=True):
        for expected, found in zip(weights_of(one), weights_of(other), strict=True):
            assert found.tobytes() == expected.tobytes()
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    assert np.asarray(group["scalars/step"]).tolist() == list(range(3 * STEPS))
    row = {int(step): i for i, step in enumerate(np.asarray(group["gradients/step"]))}
    for t in range(3 * STEPS):
        name, layer, rate = (
            ("discriminator", "judge", 0.1) if t % 3 < 2 else ("generator", "make", 0.2)
        )
        weights = np.asarray(group[f"weights/{name}/{layer}/kernel"]).astype(np.float64)
        gradient = np.asarray(group[f"gradients/{name}/{layer}/kernel"])[row[t]]
        np.testing.assert_allclose(
            gradient, (weights[t] - weights[t + 1]) / rate, rtol=1e-3, atol=1e-5
        )
        if t % 3 == 0:
            kernel, bias = (
                np.asarray(group[f"weights/discriminator/judge/{part}"])[t].astype(np.float64)
                for part in ("kernel", "bias")
            )
            x = batches()[t // 3][0]
            judged = 1 / (1 + np.exp(-(x @ kernel + bias)))
            assert np.asarray(group["scalars/loss"])[t] == pytest.approx(
                -np.log(judged).mean(), rel=1e-5
            )
            assert np.asarray(group["inputs/y"])[t].tolist() == [[1.0]] * BATCH
