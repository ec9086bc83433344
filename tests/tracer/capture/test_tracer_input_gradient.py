"""Where the gradient with respect to the input comes from that of the first layer's output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr
from keras import layers

from keras_models import vectors
from steptrace_tracer import Policy, Tracer
from steptrace_tracer.capture.input_gradient import InputGradientShortcut

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _model(first: Callable[[], list[Any]]) -> Any:
    keras.utils.set_random_seed(1)
    x, _ = vectors()
    inputs = keras.Input(x.shape[1:])
    outputs = inputs
    for layer in (*first(), layers.Dense(2)):
        outputs = layer(outputs)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    ("first", "policy", "is_taken"),
    [
        (lambda: [layers.Dense(4, activation="tanh")], Policy(), True),
        (lambda: [layers.Rescaling(0.5), layers.Dense(4)], Policy(), False),
        (lambda: [layers.BatchNormalization()], Policy(), False),
        (lambda: [layers.Dense(4)], Policy(kinds=("scalars", "inputs")), False),
    ],
    ids=["dense", "rescaling before it", "whole batch", "no gradient of the output"],
)
def test_the_gradient_of_the_input_is_that_of_a_second_tape(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: Callable[[], list[Any]],
    policy: Policy,
    is_taken: bool,
) -> None:
    taken = []
    exact = InputGradientShortcut.input_gradient

    def counted(self: InputGradientShortcut, *args: Any) -> Any:
        taken.append(self.output)
        return exact(self, *args)

    monkeypatch.setattr(InputGradientShortcut, "input_gradient", counted)
    (x, y), model, reference = vectors(), _model(first), _model(first)
    tracer = Tracer(tmp_path / "run.zarr", policy, on_error="raise", progress=False)
    model.fit(x[:8], y[:8], batch_size=8, shuffle=False, verbose=0, callbacks=[tracer])
    assert bool(taken) == is_taken
    with tf.GradientTape() as tape:
        batch = tf.constant(x[:8])
        tape.watch(batch)
        loss = tf.reduce_mean(tf.square(reference(batch, training=True) - y[:8]))
    expected = tape.gradient(loss, batch).numpy()
    found = np.asarray(zarr.open_group(tmp_path / "run.zarr", mode="r")["inputs/x_gradient"])[0]
    np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-5, atol=1e-7)
