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
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path

BATCH, STEPS = 8, 3


def values(path: Path, key: str) -> Any:
    return np.asarray(zarr.open_group(path, mode="r")[key])


def found_keys(path: Path, kind: str) -> list[str]:
    members = zarr.open_group(path, mode="r")[kind].members(max_depth=None)  # type: ignore[union-attr]
    return [key for key, array in members if isinstance(array, zarr.Array)]


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


def test_what_is_logged_when_a_batch_begins_belongs_to_its_step(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    tracer = Tracer(path, on_error="raise", progress=False)

    class Log(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            tracer.log("begun", batch)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            tracer.log("ended", batch)

    x, y = vectors(STEPS * BATCH)
    mlp().fit(x, y, batch_size=BATCH, epochs=2, verbose=0, callbacks=[tracer, Log()])
    assert values(path, "logged/begun").tolist() == [0, 1, 2, 0, 1, 2]
    assert values(path, "logged/ended").tolist() == [0, 1, 2, 0, 1, 2]


def test_what_is_logged_and_validated_before_the_first_recorded_step_is_recorded(
    tmp_path: Path,
) -> None:
    path, early = tmp_path / "run.zarr", tmp_path / "early.zarr"
    x, y = vectors(STEPS * BATCH)

    def fit(path: Path, **fields: Any) -> Any:
        tracer = Tracer(path, on_error="raise", progress=False, **fields)
        log = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: tracer.log("batch", batch)
        )
        return mlp().fit(
            x,
            y,
            batch_size=BATCH,
            epochs=3,
            verbose=0,
            validation_data=(x, y),
            callbacks=[tracer, log],
        )

    history = fit(path, epochs=(2,)).history
    fit(early)
    assert validate(path) == []
    assert values(path, "scalars/step").tolist() == [6, 7, 8]
    assert values(path, "logged/batch").tolist() == [0, 1, 2] * 3
    assert values(path, "validation/step").tolist() == [3, 6, 9]
    np.testing.assert_allclose(values(path, "validation/loss"), history["val_loss"])
    assert read_attributes(path).shard_steps == read_attributes(early).shard_steps


def test_slots_of_two_optimizers_of_one_weight_are_both_recorded(tmp_path: Path) -> None:
    model = mlp()
    optimizers = [keras.optimizers.SGD(0.1, 0.9), keras.optimizers.SGD(0.1, 0.5)]
    for optimizer in optimizers:
        optimizer.build(model.trainable_variables)

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - y))
        gradients = tape.gradient(loss, model.trainable_variables)
        for optimizer in optimizers:
            optimizer.apply(gradients, model.trainable_variables)
        return loss

    path = tmp_path / "run.zarr"
    kinds = ("gradients", "optimizer")
    with Tracer(path, kinds=kinds, on_error="raise", progress=False) as tracer:
        traced = tracer.wrap(step, models=[model], optimizers=optimizers)
        x, y = vectors(BATCH)
        for _ in range(STEPS):
            traced(tf.constant(x), tf.constant(y))
    weight = next(name for name in found_keys(path, "gradients") if name.endswith("kernel"))
    gradients = values(path, f"gradients/{weight}").astype(np.float64)
    for slot, factor in (("momentum", 0.9), ("momentum_1", 0.5)):
        expected = np.zeros_like(gradients[0])
        for row, gradient in zip(
            values(path, f"optimizer/{weight}/{slot}"), gradients, strict=True
        ):
            np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-8)
            expected = factor * expected - 0.1 * gradient


def test_weights_that_have_a_column_are_those_of_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    x, y = vectors(BATCH)
    weights = np.linspace(1, 2, BATCH, dtype=np.float32)
    tracer = Tracer(path, exclude=("sample_loss",), on_error="raise", progress=False)
    mlp().fit(x, y, sample_weight=weights[:, None], shuffle=False, verbose=0, callbacks=[tracer])
    assert validate(path) == []
    assert (values(path, "inputs/sample_weight")[0] == weights).all()


@pytest.mark.parametrize(("second", "reason"), [(3.0, "different sample weights"), (None, "")])
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
