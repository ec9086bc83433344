"""Models that are never called themselves: the tracer records them, and does not build them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr

from keras_models import vectors, weights_of
from steptrace_schema.store.opening import read_attributes
from steptrace_tracer import Tracer
from steptrace_tracer.capture.building import is_built, left_unbuilt

if TYPE_CHECKING:
    from pathlib import Path


class Container(keras.Model):  # type: ignore[misc]
    """Trains the model inside it, as a GAN does, and is never called itself."""

    def __init__(self) -> None:
        super().__init__(name="container")
        keras.utils.set_random_seed(4)
        self.inner = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(2, name="out")], name="inner"
        )
        self.own = keras.optimizers.SGD(0.1)

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self.inner(x) - y))
        weights = self.inner.trainable_variables
        self.own.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"error": loss}


class Callable(Container):
    """One that could be called, too."""

    def call(self, x: Any) -> Any:
        return self.inner(x)


class Grows(keras.callbacks.Callback):  # type: ignore[misc]
    """Gives the model another layer after each epoch, which one that is built refuses."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        assert not self.model.built
        setattr(self.model, f"later_{epoch}", keras.layers.Dense(1))


@pytest.mark.parametrize("kind", [Container, Callable])
def test_fit_leaves_a_model_unbuilt_that_its_step_does_not_call(tmp_path: Path, kind: Any) -> None:
    def fit(callbacks: list[Any]) -> Any:
        model = kind()
        model.compile()
        x, y = vectors()
        model.fit(
            x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[*callbacks, Grows()]
        )
        return model

    path = tmp_path / "run.zarr"
    traced = fit([Tracer(path, on_error="raise", progress=False)])
    for left, right in zip(weights_of(fit([])), weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()
    assert read_attributes(path).status == "complete"


def test_a_loop_over_the_step_of_such_a_model_is_recorded_from_its_first_call(
    tmp_path: Path,
) -> None:
    model = Container()
    x, y = vectors()
    path = tmp_path / "run.zarr"
    with Tracer(path, on_error="raise", progress=False) as tracer:
        step = tracer.wrap(tf.function(model.train_step))
        for start in range(0, 24, 8):
            step((x[start : start + 8], y[start : start + 8]))
    group: Any = zarr.open_group(path, mode="r")
    assert np.asarray(group["scalars/step"]).tolist() == [0, 1, 2]
    last = np.asarray(group["weights/inner/out/kernel"])[-1]
    assert last.tobytes() == weights_of(model)[0].tobytes()


def test_a_loop_is_recorded_though_one_of_its_models_is_never_called(tmp_path: Path) -> None:
    model, other = Container().inner, keras.Sequential([keras.layers.Dense(2)], name="other")
    optimizer = keras.optimizers.SGD(0.1)
    x, y = (tf.constant(values) for values in vectors())

    def train_step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - y))
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    path = tmp_path / "run.zarr"
    with Tracer(path, on_error="raise", progress=False) as tracer:
        step = tracer.wrap(train_step, models=[model, other], optimizers=[optimizer])
        for start in range(0, 24, 8):
            step(x[start : start + 8], y[start : start + 8])
    group: Any = zarr.open_group(path, mode="r")
    assert np.asarray(group["scalars/step"]).tolist() == [1, 2]


def test_what_is_built_is_known_without_calling_it() -> None:
    assert [is_built(each) for each in (Container(), keras.layers.Dense(2))] == [True, False]
    assert not is_built(keras.Sequential([keras.layers.Dense(2)]))
    model = Callable()
    with left_unbuilt(model):
        model(np.zeros((1, 3), np.float32))
    assert not model.built


def test_a_model_without_call_whose_parts_the_first_step_builds_is_recorded_from_the_second_on(
    tmp_path: Path,
) -> None:
    # As BYOL and SimCLR: layers that augment are built by the step that calls them.
    class Pair(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name="pair")
            self.augment = keras.Sequential([keras.layers.GaussianNoise(0.1, seed=1)])
            self.encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])

        def train_step(self, x: Any) -> Any:
            with tf.GradientTape() as tape:
                one, other = (self.encoder(self.augment(x, training=True)) for _ in range(2))
                loss = tf.reduce_mean(tf.square(one - other - 1.0))
            weights = self.encoder.trainable_variables
            gradients = tape.gradient(loss, weights)
            self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
            return {"loss": loss}

    def fit(callbacks: list[Any]) -> tuple[Any, list[bytes]]:
        keras.utils.set_random_seed(3)
        model = Pair()
        model.compile(keras.optimizers.SGD(0.1))
        x = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
        model.fit(x, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
        return model.built, [v.numpy().tobytes() for v in model.variables]

    path = tmp_path / "run.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit([]) == fit([Tracer(path, on_error="raise", progress=False)])
    group: Any = zarr.open_group(path, mode="r")
    assert np.asarray(group["scalars/step"]).tolist() == [1, 2, 3]
