"""Kinds where there are several of something: models, optimizers, losses, fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr
from keras import layers

from keras_models import mlp, vectors
from steptrace_schema.store import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path

BATCH, STEPS = 8, 3


def values(path: Path, key: str) -> Any:
    return np.asarray(zarr.open_group(path, mode="r")[key])


def reasons(path: Path) -> dict[str, str]:
    return {f"{m.kind}/{m.path}": m.reason for m in read_attributes(path).missing}


def two_outputs() -> Any:
    inputs = keras.Input((3,))
    outputs = [layers.Dense(2, name="a")(inputs), layers.Dense(1, name="b")(inputs)]
    model = keras.Model(inputs, outputs)
    model.compile("sgd", ["mse", "mae"])
    return model


@pytest.mark.parametrize("shared", [False, True])
def test_slots_belong_to_their_own_model_where_weights_have_the_same_names(
    tmp_path: Path, shared: bool
) -> None:
    def linear(name: str) -> Any:
        inputs = keras.Input((3,))
        return keras.Model(inputs, layers.Dense(2, name="out")(inputs), name=name)

    first, second = linear("first"), linear("second")
    rates, factors = (0.1, 0.01), (0.9, 0.5)
    if shared:  # one optimizer for the weights of both
        rates, factors = (0.1, 0.1), (0.9, 0.9)
        both = keras.optimizers.SGD(0.1, 0.9)
        both.build([*first.trainable_variables, *second.trainable_variables])
        optimizers = [both]
    else:
        optimizers = [keras.optimizers.SGD(r, f) for r, f in zip(rates, factors, strict=True)]
        for optimizer, model in zip(optimizers, (first, second), strict=True):
            optimizer.build(model.trainable_variables)

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(first(x) - y)) + tf.reduce_mean(tf.abs(second(x) - y))
        weights = [*first.trainable_variables, *second.trainable_variables]
        gradients = tape.gradient(loss, weights)
        if shared:
            optimizers[0].apply(gradients, weights)
        else:
            optimizers[0].apply(gradients[:2], weights[:2])
            optimizers[1].apply(gradients[2:], weights[2:])
        return loss

    path = tmp_path / "run.zarr"
    kinds = ("weights", "gradients", "optimizer")
    with Tracer(path, kinds=kinds, on_error="raise", progress=False) as tracer:
        traced = tracer.wrap(step, models=[first, second], optimizers=optimizers)
        x, y = vectors(BATCH)
        for _ in range(STEPS):
            traced(tf.constant(x), tf.constant(y))
    assert validate(path) == []
    for model, rate, factor in zip(("first", "second"), rates, factors, strict=True):
        for variable in ("kernel", "bias"):
            gradients = values(path, f"gradients/{model}/out/{variable}").astype(np.float64)
            found = values(path, f"optimizer/{model}/out/{variable}/momentum")
            momentum = np.zeros_like(gradients[0])
            for row, gradient in zip(found, gradients, strict=True):
                np.testing.assert_allclose(row, momentum, rtol=1e-5, atol=1e-8)
                momentum = factor * momentum - rate * gradient


def test_what_is_logged_between_two_fits_belongs_to_the_step_after_it(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    tracer = Tracer(path, on_error="raise", progress=False)

    class Log(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            tracer.log("begun", 7)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            tracer.log("batch", batch)

    model, (x, y) = mlp(), vectors(STEPS * BATCH)
    for _ in range(2):
        model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[tracer, Log()])
    assert validate(path) == []
    assert values(path, "logged/step").tolist() == list(range(2 * STEPS))
    assert values(path, "logged/batch").tolist() == [0, 1, 2, 0, 1, 2]
    begun = values(path, "logged/begun")
    assert begun[[0, STEPS]].tolist() == [7, 7]
    assert np.isnan(np.delete(begun, [0, STEPS])).all()


def test_weights_that_have_a_column_are_those_of_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    x, y = vectors(BATCH)
    weights = np.linspace(1, 2, BATCH, dtype=np.float32)
    tracer = Tracer(path, exclude=("sample_loss",), on_error="raise", progress=False)
    mlp().fit(x, y, sample_weight=weights[:, None], shuffle=False, verbose=0, callbacks=[tracer])
    assert validate(path) == []
    assert (values(path, "inputs/sample_weight")[0] == weights).all()


@pytest.mark.parametrize(("second", "reason"), [(3.0, "weights of its own"), (None, "")])
def test_one_weight_for_each_sample_is_recorded_only_where_all_losses_take_it(
    tmp_path: Path, second: float | None, reason: str
) -> None:
    path = tmp_path / "run.zarr"
    x, y = vectors(BATCH)
    one = np.linspace(1, 2, BATCH, dtype=np.float32)
    tracer = Tracer(path, on_error="raise", progress=False)
    given = None if second is None else [one, one * second]
    model = two_outputs()
    model.fit(x, [y, y[:, :1]], sample_weight=given, verbose=0, callbacks=[tracer])
    assert validate(path) == []
    assert reason in reasons(path).get("inputs/sample_weight", "")
    assert ("inputs/sample_weight" in reasons(path)) == bool(reason)
    assert "inputs/sample_weight" not in zarr.open_group(path, mode="r")
