"""The last row of the weights is what the last step left, whatever callbacks do then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path

RATE = 0.1
NAMES = ("hidden/kernel", "hidden/bias", "out/kernel", "out/bias")
FAILED = "this callback fails"


class StopsAt(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends the training in the midst of an epoch, and zeroes the weights as it does."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 1:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.set_weights([0 * weight for weight in self.model.get_weights()])


class SetsAtTheEnd(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets one weight when the training has ended, and may fail then."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fails = fails

    def on_train_end(self, logs: Any = None) -> None:
        self.model.get_layer("out").bias.assign([3.0, 4.0])
        if self.fails:
            raise RuntimeError(FAILED)


def averaging() -> list[Any]:
    return [
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=0, restore_best_weights=True),
    ]


def stopping() -> list[Any]:
    return [StopsAt()]


def train(callbacks: list[Any]) -> Any:
    model = mlp()
    model.compile(keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=0.9), "mse")
    x, y = vectors(24)
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=3,
        shuffle=False,
        verbose=0,
        validation_data=(x, y),
        callbacks=callbacks,
    )
    return model


@pytest.mark.sampled(2)
@pytest.mark.parametrize("first", [True, False], ids=["tracer first", "tracer last"])
@pytest.mark.parametrize("others", [averaging, stopping])
def test_the_last_row_is_what_the_last_step_left_in_either_order_of_callbacks(
    tmp_path: Path, others: Any, first: bool
) -> None:
    path = tmp_path / "run.zarr"
    tracer = Tracer(path, on_error="raise", progress=False)
    plain = train(others())
    model = train([tracer, *others()] if first else [*others(), tracer])
    for expected, found in zip(weights_of(plain), weights_of(model), strict=True):
        assert found.tobytes() == expected.tobytes()
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    for name in NAMES:
        weights = np.asarray(group[f"weights/mlp/{name}"])
        gradients = np.asarray(group[f"gradients/mlp/{name}"])
        # Plain gradient descent: what any step leaves, the last one included.
        np.testing.assert_allclose(
            weights[-1], weights[-2] - RATE * gradients[-1], rtol=1e-5, atol=1e-7
        )
    final = read_attributes(path).final
    assert final is not None
    steps = np.asarray(group["scalars/step"])
    assert (final.step, final.compared, final.changed) == (len(steps), 4, 4)
    assert set(final.arrays) == {f"mlp/{name}" for name in NAMES}
    for variable, name in zip(model.weights, NAMES, strict=True):
        assert np.asarray(group[f"final/mlp/{name}"]).tobytes() == variable.numpy().tobytes()
    said = [event.message for event in read_attributes(path).events]
    assert any("4 of 4 weights were no longer those that the last step left" in m for m in said)


def fit(callbacks: list[Any], epochs: int = 3, *, ema: bool = False) -> Any:
    """Train on data whose validation gets worse after the first epoch."""
    model, (x, y) = mlp(), vectors(16)
    model.compile(keras.optimizers.SGD(RATE, use_ema=ema, ema_momentum=0.9), "mse")
    validation = (x, model.predict(x, verbose=0))
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        validation_data=validation,
        callbacks=callbacks,
    )
    return model


def test_restored_weights_are_recorded_beside_the_last_ones_with_their_step(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run.zarr"
    tracer = Tracer(path, on_error="raise", progress=False)
    other = keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True)
    model = fit([tracer, other])
    final = read_attributes(path).final
    assert final is not None
    assert (final.cause, final.same_as) == ("restored", 2)  # two batches an epoch, the first best
    assert "EarlyStopping" in final.reason
    assert "number 0" in final.reason
    group: Any = zarr.open_group(path, mode="r")
    for variable, name in zip(model.weights, NAMES, strict=True):
        stored = np.asarray(group[f"final/mlp/{name}"])
        assert stored.tobytes() == variable.numpy().tobytes()
        assert stored.tobytes() == np.asarray(group[f"weights/mlp/{name}"])[2].tobytes()


def test_the_averages_that_keras_puts_into_the_model_are_named(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    model = fit([Tracer(path, on_error="raise", progress=False)], epochs=1, ema=True)
    final = read_attributes(path).final
    assert final is not None
    assert (final.cause, final.changed, final.same_as) == ("averages", 4, None)
    group: Any = zarr.open_group(path, mode="r")
    for variable, name in zip(model.weights, NAMES, strict=True):
        stored = np.asarray(group[f"final/mlp/{name}"])
        assert stored.tobytes() == variable.numpy().tobytes()
        _, first, second = np.asarray(group[f"weights/mlp/{name}"])
        np.testing.assert_allclose(stored, 0.9 * first + 0.1 * second, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("precision", [{}, {"weights": "bfloat16"}])
def test_the_last_weights_say_that_they_are_rounded(
    tmp_path: Path, precision: dict[str, str]
) -> None:
    path = tmp_path / "run.zarr"
    tracer = Tracer(path, precision=precision, on_error="raise", progress=False)
    model = fit([tracer], epochs=1, ema=True)
    group: Any = zarr.open_group(path, mode="r")
    stored, bits = group["final/mlp/out/kernel"], group["weights/mlp/out/kernel"].attrs
    assert stored.attrs.get("keep_bits") == bits.get("keep_bits")
    is_exact = np.array_equal(stored, model.get_layer("out").kernel)
    assert is_exact == ("keep_bits" not in stored.attrs)


@pytest.mark.parametrize("fails", [False, True])
def test_a_callback_behind_the_tracer_may_set_a_weight_or_fail(tmp_path: Path, fails: bool) -> None:
    path = tmp_path / "run.zarr"
    tracer = Tracer(path, on_error="raise", progress=False)
    if fails:
        with pytest.raises(RuntimeError, match=FAILED):
            fit([tracer, SetsAtTheEnd(fails)], epochs=1)
        tracer.close()
    else:
        fit([tracer, SetsAtTheEnd(fails)], epochs=1)
    assert validate(path) == []
    attributes = read_attributes(path)
    assert attributes.status == "complete"
    final = attributes.final
    assert final is not None
    assert (final.cause, final.arrays) == ("other", ("mlp/out/bias",))
    group: Any = zarr.open_group(path, mode="r")
    assert np.asarray(group["final/mlp/out/bias"]).tolist() == [3.0, 4.0]


def test_weights_that_nothing_changed_are_not_stored_twice(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    fit([Tracer(path, on_error="raise", progress=False)], epochs=1)
    final = read_attributes(path).final
    assert final is not None
    assert (final.cause, final.changed, final.arrays, final.step) == ("none", 0, (), 2)
    assert not (path / "final").exists()


def averages(model: Any) -> None:
    model.optimizer.finalize_variable_values(model.trainable_variables)


def zeros(model: Any) -> None:
    model.set_weights([0 * weight for weight in model.get_weights()])


def one_variable(model: Any) -> None:
    model.get_layer("out").bias.value.assign_add([3.0, 4.0])


def loop(path: Path | None, *, compiled: bool, on_batch: bool, between: Any, end: Any) -> Any:
    """Train by a loop that assigns weights `between` its steps, and at the `end`."""
    model = mlp()
    model.compile(keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=0.9), "mse")
    x, y = vectors(24)

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(y=y, y_pred=model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)
        return loss

    function = model.train_on_batch if on_batch else tf.function(step) if compiled else step
    tracer = None if path is None else Tracer(path, on_error="raise", progress=False)
    if tracer is not None:
        function = tracer.wrap(function, models=[model], optimizers=[model.optimizer])
    for start in range(0, 24, 8):
        function(tf.constant(x[start : start + 8]), tf.constant(y[start : start + 8]))
        between(model)
    end(model)
    if tracer is not None:
        tracer.close()
    return model


def nothing(_: Any) -> None:
    """Leave the weights as they are."""


def clipped(model: Any) -> None:
    for variable in model.trainable_variables:
        variable.assign(tf.clip_by_value(variable, -0.1, 0.1))


@pytest.mark.sampled(5)
@pytest.mark.parametrize("end", [nothing, averages, zeros, one_variable])
@pytest.mark.parametrize(
    ("compiled", "on_batch"),
    [(True, False), (False, False), (True, True)],
    ids=["compiled", "eager", "train_on_batch"],
)
def test_the_last_row_of_a_loop_is_what_its_last_step_left(
    tmp_path: Path, compiled: bool, on_batch: bool, end: Any
) -> None:
    path = tmp_path / "run.zarr"
    way: dict[str, Any] = {"compiled": compiled, "on_batch": on_batch}
    way |= {"between": nothing, "end": end}
    plain, model = loop(None, **way), loop(path, **way)
    for expected, found in zip(weights_of(plain), weights_of(model), strict=True):
        assert found.tobytes() == expected.tobytes()
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    left = loop(None, **way | {"end": nothing})  # what the last step leaves
    for name, variable in zip(NAMES, left.trainable_variables, strict=True):
        weights = np.asarray(group[f"weights/mlp/{name}"])
        assert len(weights) == 4
        assert weights[-1].tobytes() == variable.numpy().tobytes()
    final = read_attributes(path).final
    assert (final is None) == (end is nothing)
    if final is not None:
        assert final.cause == ("averages" if end is averages else "other")
        for name, variable in zip(NAMES, model.trainable_variables, strict=True):
            if f"mlp/{name}" in final.arrays:
                stored = np.asarray(group[f"final/mlp/{name}"])
                assert stored.tobytes() == variable.numpy().tobytes()
    assert all("assign" not in name for v in model.weights for name in vars(v.value))


def test_weights_that_a_loop_clips_are_those_before_the_next_step(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    way: dict[str, Any] = {"compiled": True, "on_batch": False}
    way |= {"between": clipped, "end": nothing}
    plain, model = loop(None, **way), loop(path, **way)
    for expected, found in zip(weights_of(plain), weights_of(model), strict=True):
        assert found.tobytes() == expected.tobytes()
    group: Any = zarr.open_group(path, mode="r")
    for name, variable in zip(NAMES, model.trainable_variables, strict=True):
        weights = np.asarray(group[f"weights/mlp/{name}"])
        gradients = np.asarray(group[f"gradients/mlp/{name}"])
        assert np.abs(weights[1:3]).max() <= np.float32(0.1)
        # The last row is what the last step left, which was clipped after it.
        expected = weights[-2] - RATE * gradients[-1]
        np.testing.assert_allclose(weights[-1], expected, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(variable.numpy(), np.clip(expected, -0.1, 0.1), rtol=1e-5)
    final = read_attributes(path).final
    assert final is not None
    assert final.cause == "other"
