"""A recorded gradient divided among samples, beside a tape for each sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from steptrace_analyzer import explain_gradient
from steptrace_analyzer.cli.app import app
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path

ROWS, STEP = 6, 2


def test_shares_of_layers_of_several_kinds_are_those_of_tapes(tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((9, 8, 2)),
            layers.Conv2D(3, 3, strides=2, padding="same", activation="relu", name="conv"),
            layers.Conv2D(4, (2, 3), dilation_rate=(2, 1), name="wide"),
            layers.Conv2D(6, 2, padding="same", groups=2, name="grouped"),
            layers.DepthwiseConv2D(2, depth_multiplier=2, activation="tanh", name="depthwise"),
            layers.Reshape((2, 1, 1, 12), name="deeper"),
            layers.Conv3D(3, (2, 1, 1), groups=3, padding="same", name="volume"),
            layers.Flatten(name="flat"),
            layers.Dense(5, "gelu", name="dense"),
            layers.Dense(3, "softmax", name="out"),
        ],
        name="net",
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2 * ROWS, 9, 8, 2)).astype(np.float32)
    y = rng.integers(0, 3, 2 * ROWS)
    weights: list[Any] = []
    before = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: weights.append(model.get_weights())
    )
    path = tmp_path / "run.zarr"
    tracer = Tracer(path, samples=ROWS, on_error="raise", progress=False, capture="inside")
    model.fit(x, y, ROWS, 2, shuffle=False, verbose=0, callbacks=[before, tracer])
    model.set_weights(weights[STEP])
    parts: list[list[Any]] = []
    for row in range(ROWS):
        with tf.GradientTape() as tape:
            given = model(x[row : row + 1], training=True)
            losses = keras.losses.sparse_categorical_crossentropy(y[row : row + 1], given)
            loss = tf.reduce_sum(losses) / ROWS
        parts.append([g.numpy() for g in tape.gradient(loss, model.trainable_weights)])
    for number, weight in enumerate(model.trainable_weights):
        found = explain_gradient(path, STEP, "/".join(weight.path.split("/")[-2:]))
        assert found.reason is None
        assert found.exact
        whole = sum(part[number].astype(np.float64) for part in parts)
        shares = [float((part[number] * whole).sum() / (whole**2).sum()) for part in parts]
        for one in found.samples:
            assert one.share == pytest.approx(shares[one.row], rel=1e-3, abs=1e-4)
            assert [visit.step for visit in one.seen] == [0]
    done = CliRunner().invoke(
        app, ["explain", str(path), "--step", str(STEP), "--tensor", "wide/kernel"]
    )
    assert done.exit_code == 0
    assert "all 6 samples are recorded, and sum to it: sample" in " ".join(done.output.split())
