"""Gradients of the probe, which few steps have: at which, of which layers, and whether right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr
from keras import layers

from keras_models import weights_of
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer
from steptrace_tracer.session import probe_gradients

if TYPE_CHECKING:
    from pathlib import Path

BATCH, STEPS, DEEP = 4, 33, 10


@pytest.fixture(autouse=True)
def allowance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a machine that is busy take as long as it takes."""
    monkeypatch.setattr(probe_gradients, "_allowance", probe_gradients._Allowance())
    monkeypatch.setattr(probe_gradients, "_SECONDS", 1000.0)


def deep(**compiled: Any) -> Any:
    """Return a network of ten layers with an activation."""
    keras.utils.set_random_seed(3)
    hidden = [layers.Dense(3, "tanh", name=f"d{number}") for number in range(DEEP)]
    model = keras.Sequential([keras.Input((2,)), *hidden, layers.Dense(1, name="out")], name="net")
    model.compile("sgd", "mse", **compiled)
    return model


def train(model: Any, *callbacks: Any) -> Any:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(BATCH * STEPS, 2)), random.normal(size=(BATCH * STEPS, 1))
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[*callbacks])
    return weights_of(model)


def expected(path: Path, layer: str, row: int) -> Any:
    """Differentiate a layer's strongest unit in NumPy, from the weights at a step."""
    group: Any = zarr.open_group(path, mode="r")
    step = int(np.asarray(group["probe_gradients/step"])[row])
    values = np.asarray(group["probe/x"], np.float64)
    found = np.broadcast_to(np.eye(2), (len(values), 2, 2))
    for number in range(DEEP):
        kernel, bias = (
            np.asarray(group[f"weights/net/d{number}/{name}"][step], np.float64)
            for name in ("kernel", "bias")
        )
        values = np.tanh(values @ kernel + bias)
        found = (found @ kernel) * (1 - values**2)[:, None, :]
        if f"d{number}" == layer:
            break
    unit = values.argmax(axis=1)
    return unit, found[np.arange(len(values)), :, unit]


@pytest.mark.parametrize(
    ("settings", "policy", "steps", "kept"),
    [
        ({}, {}, [0, 4, 8, 12, 16, 24, 32], 8),
        pytest.param(
            {"steps_per_execution": 8}, {}, [0, 4, 8, 16, 24, 32], 8, marks=pytest.mark.long
        ),
        pytest.param(
            {"run_eagerly": True}, {}, [0, 4, 8, 12, 16, 24, 32], 8, marks=pytest.mark.long
        ),
        ({}, {"probe_gradients_every": 11}, [0, 11, 22], 10),
    ],
    ids=["default", "executions", "eager", "every 11"],
)
def test_few_steps_have_the_gradient_of_each_chosen_layer(
    tmp_path: Path,
    settings: Any,
    policy: Any,
    steps: list[int],
    kept: int,
) -> None:
    path = tmp_path / "run.zarr"
    tracer = Tracer(path, on_error="raise", progress=False, **policy)
    traced, untraced = train(deep(**settings), tracer), train(deep(**settings))
    for one, other in zip(traced, untraced, strict=True):
        np.testing.assert_array_equal(one, other)
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    assert np.asarray(group["probe_gradients/step"]).tolist() == steps
    found = [f"d{n}" for n in range(DEEP) if f"probe_gradients/net/d{n}/saliency" in group]
    assert len(found) == kept
    assert {"d0", "d9"} <= {*found}
    said = {m.path: m.reason for m in read_attributes(path).missing if m.kind == "probe_gradients"}
    assert len(said) == DEEP - kept
    assert all("probe_gradients_every=1" in reason for reason in said.values())
    for layer in found:
        for row in (0, 1, len(steps) - 1):
            unit, gradient = expected(path, layer, row)
            place = f"probe_gradients/net/{layer}"
            assert np.array_equal(group[f"{place}/unit"][row], unit)
            np.testing.assert_allclose(
                group[f"{place}/saliency"][row], gradient, rtol=1e-4, atol=1e-7
            )


def test_no_more_time_is_taken_than_a_share_of_the_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_gradients, "_SECONDS", 0.0)
    monkeypatch.setattr(probe_gradients, "_SHARE", 1e-9)
    path = tmp_path / "run.zarr"
    for number in range(2):  # the second one has what the first has left
        train(deep(), Tracer(path, on_error="raise", progress=False, overwrite=True))
        group: Any = zarr.open_group(path, mode="r")
        assert ("probe_gradients" in group) == (number == 0)
        if number == 0:
            assert np.asarray(group["probe_gradients/step"]).tolist() == [0]
        assert validate(path) == []


def test_a_layer_that_cannot_be_differentiated_costs_one_view_alone(tmp_path: Path) -> None:
    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def undifferentiable(x: Any) -> Any:
        def gradient(_: Any) -> Any:
            msg = "no gradient of this"
            raise ValueError(msg)

        return tf.identity(x), gradient

    class Odd(layers.Layer):  # type: ignore[misc]
        def call(self, x: Any, training: bool = False) -> Any:
            return x if training else undifferentiable(x)

    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [keras.Input((2,)), Odd(name="odd"), layers.Dense(1, "tanh", name="out")], name="net"
    )
    model.compile("sgd", "mse")
    path = tmp_path / "run.zarr"
    train(model, Tracer(path, on_error="raise", progress=False))
    attributes = read_attributes(path)
    (said,) = [m for m in attributes.missing if m.kind == "probe_gradients"]
    assert "no gradient of this" in said.reason
    assert attributes.status == "complete"
    assert attributes.steps_recorded["weights"] == STEPS + 1


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
def test_a_model_that_draws_without_a_seed_draws_the_same_when_it_is_probed(
    tmp_path: Path, eager: bool
) -> None:
    class Noise(layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x + tf.random.normal(tf.shape(x))

    class Draw(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.drawn: list[float] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.drawn.append(float(tf.random.normal(())))

    def run(*callbacks: Any) -> Any:
        keras.utils.set_random_seed(3)
        hidden = layers.Dense(3, "tanh", name="hidden")
        model = keras.Sequential([keras.Input((2,)), hidden, Noise(name="noise"), layers.Dense(1)])
        model.compile("sgd", "mse", run_eagerly=eager)
        draw = Draw()
        return train(model, *callbacks, draw), draw.drawn

    untraced = run()
    path = tmp_path / "run.zarr"
    traced = run(Tracer(path, on_error="raise", progress=False))
    assert traced[1] == untraced[1]
    for one, other in zip(traced[0], untraced[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert read_attributes(path).steps_recorded["probe_gradients"] > 1


@pytest.mark.parametrize("every", ["auto", 1], ids=["default", "compiled"])
def test_a_layer_of_a_mixture_sees_some_samples_and_has_no_gradient_of_the_probe(
    tmp_path: Path, every: Any
) -> None:
    class Mixture(layers.Layer):  # type: ignore[misc]
        """Gives each sample to one of two experts."""

        def __init__(self, **keywords: Any) -> None:
            super().__init__(**keywords)
            self.experts = [layers.Dense(3, "relu", name=f"expert{n}") for n in range(2)]

        def call(self, x: Any) -> Any:
            found = tf.zeros((tf.shape(x)[0], 3))
            for number, expert in enumerate(self.experts):
                rows = tf.where(tf.equal(x[:, 0] > 0, number == 1))
                found = tf.tensor_scatter_nd_add(found, rows, expert(tf.gather_nd(x, rows)))
            return found

        def compute_output_shape(self, shape: Any) -> Any:
            return (shape[0], 3)

    def run(*callbacks: Any) -> Any:
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [keras.Input((2,)), Mixture(name="mixture"), layers.Dense(1, "tanh", name="out")],
            name="net",
        )
        model.compile("sgd", "mse")
        return train(model, *callbacks)

    path = tmp_path / "run.zarr"
    traced = run(Tracer(path, on_error="raise", progress=False, probe_gradients_every=every))
    for one, other in zip(traced, run(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    assert "probe_gradients/net/out/saliency" in group
    said = {m.path: m.reason for m in read_attributes(path).missing if m.kind == "probe_gradients"}
    assert [*said] == [f"net/mixture/expert{n}/saliency" for n in range(2)]
    assert {*said.values()} == {"its first dimension does not count the samples of the batch"}
