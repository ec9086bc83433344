"""Steps that loss scaling skips."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_models import vectors, weights_of
from steptrace_analyzer import diagnose, open_trace
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path


def build(scale: float, *, eager: bool = False, rate: float = 0.01) -> Any:
    """Return a model in float16 whose first loss scale is `scale`."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, activation="tanh", dtype="mixed_float16", name="hidden"),
            layers.Dense(2, name="out", dtype="float32"),
        ],
        name="net",
    )
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(rate), scale)
    model.compile(optimizer, "mse", run_eagerly=eager)
    return model


class Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Notes the loss scale before each step, and whether the optimizer has done it."""

    def __init__(self) -> None:
        super().__init__()
        self.scales: list[float] = []
        self.skipped: list[int] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        optimizer = self.model.optimizer
        self.scales.append(float(optimizer.dynamic_scale) if optimizer.built else 2.0**25)
        self._count = int(optimizer.iterations)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.skipped.append(int(int(self.model.optimizer.iterations) == self._count))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("capture", ["auto", "inside", "beside", "eager"])
def test_steps_that_loss_scaling_skips_are_recorded_with_their_scale(
    tmp_path: Path, capture: Any
) -> None:
    x, y = vectors()
    fields: dict[str, Any] = {} if capture == "eager" else {"capture": capture}

    def train(callbacks: list[Any]) -> Any:
        model = build(2.0**25, eager=capture == "eager")
        model.fit(x, y, batch_size=8, shuffle=False, epochs=6, verbose=0, callbacks=callbacks)
        return model

    path, watch = tmp_path / "run.zarr", Watch()
    tracer = Tracer(path, on_error="raise", progress=False, **fields)
    traced = train([tracer, watch])
    untraced = train([])
    for left, right in zip(weights_of(untraced), weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()
    assert validate(path) == []
    trace = open_trace(path)
    skipped = np.asarray(trace["scalars/skipped"])
    assert 0 < sum(watch.skipped) < len(watch.skipped)
    assert skipped.tolist() == watch.skipped
    assert np.asarray(trace["scalars/loss_scale"]).tolist() == watch.scales
    kernel = np.asarray(trace["weights/net/out/kernel"])
    moved = (kernel[1:] != kernel[:-1]).any(axis=(1, 2))
    assert (moved == (skipped == 0)).all()


def test_a_custom_loop_says_which_steps_it_skipped(tmp_path: Path) -> None:
    model = build(2.0**25)
    optimizer, counts = model.optimizer, [0]

    @tf.function  # type: ignore[untyped-decorator]
    def train_step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_weights)
        optimizer.apply(gradients, model.trainable_weights)
        return loss

    x, y = vectors()
    with Tracer(tmp_path / "run.zarr", on_error="raise", progress=False) as tracer:
        step = tracer.wrap(train_step)
        optimizer.build(model.trainable_weights)
        for _ in range(16):
            step(x, y)
            counts.append(int(optimizer.iterations))
    expected = [int(before == after) for before, after in itertools.pairwise(counts)]
    assert 0 < sum(expected) < 16
    trace = open_trace(tmp_path / "run.zarr")
    assert np.asarray(trace["scalars/skipped"]).tolist() == expected


def test_an_optimizer_that_scales_nothing_skips_nothing(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    model.compile("sgd", "mse")
    tracer = Tracer(tmp_path / "run.zarr", on_error="raise", progress=False)
    model.fit(*vectors(), verbose=0, callbacks=[tracer])
    assert "skipped" not in open_trace(tmp_path / "run.zarr")["scalars"]


def test_the_search_for_a_scale_is_no_fault_and_a_scale_that_collapses_is_one(
    tmp_path: Path,
) -> None:
    def record(name: str, scale: float, size: float) -> Any:
        x, y = vectors()
        model = build(scale, rate=1e-9)
        tracer = Tracer(tmp_path / name, on_error="raise", progress=False)
        model.fit(
            x, y * size, batch_size=8, shuffle=False, epochs=10, verbose=0, callbacks=[tracer]
        )
        trace = open_trace(tmp_path / name)
        rules = ("non_finite", "loss_scale", "gradient_jump", "update_jump", "exploding")
        return trace, diagnose(trace, rules=rules).findings

    trace, found = record("search.zarr", 2.0**20, 1.0)
    assert 0 < int(trace["scalars/skipped"].sum()) < 10
    assert found == ()
    trace, found = record("collapse.zarr", 2.0**20, 1e4)
    (collapse,) = [f for f in found if f.rule in ("non_finite", "loss_scale")]
    skipped = np.flatnonzero(np.asarray(trace["scalars/skipped"]))
    assert skipped.tolist() == list(range(len(skipped)))
    assert len(skipped) >= 10
    assert (collapse.rule, collapse.first_step, collapse.last_step) == (
        "loss_scale",
        0,
        len(skipped) - 1,
    )
    assert collapse.observed == len(skipped)
    assert collapse.cause_kind == "overflow"
    assert f"{len(skipped)} steps in a row, 0 to {len(skipped) - 1}" in collapse.explanation
