"""What a custom step is called with: arrays of NumPy, and numbers that are no batch."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf
import zarr
from numpy.testing import assert_allclose

from keras_models import mlp, vectors, weights_of
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer
from steptrace_tracer.session.step_batch import batch_of_arguments

if TYPE_CHECKING:
    from pathlib import Path


def train(path: Path | None, *, compiled: bool) -> list[Any]:
    """Train on arrays of NumPy, behind the number of the step, for four steps."""
    model = mlp()

    def step(number: Any, x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            error = tf.reduce_mean(tf.square(model(x, training=True) - y))
            error = error / tf.cast(number + 1, tf.float32)
        weights = model.trainable_variables
        gradients = tape.gradient(error, weights)
        model.optimizer.apply_gradients(zip(gradients, weights, strict=True))

    run = tf.function(step) if compiled else step
    tracer = None if path is None else Tracer(path, samples=8, on_error="raise", progress=False)
    if tracer is not None:
        run = tracer.wrap(run, models=[model], optimizers=[model.optimizer])
    x, y = vectors(32)
    for number, start in enumerate(range(0, 32, 8)):
        run(tf.constant(number), x[start : start + 8], y[start : start + 8])
    if tracer is not None:
        tracer.close()
    return weights_of(model)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "eager"])
def test_arrays_of_numpy_are_recorded_and_a_number_before_them_is_no_batch(
    tmp_path: Path, compiled: bool
) -> None:
    path = tmp_path / "run.zarr"
    traced = train(path, compiled=compiled)
    for left, right in zip(train(None, compiled=compiled), traced, strict=True):
        assert left.tobytes() == right.tobytes()
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    for name, values in zip("xy", vectors(32), strict=True):
        found = np.asarray(group[f"inputs/{name}"])
        assert found.tobytes() == values.reshape(found.shape).tobytes()
    assert len(np.unique(np.asarray(group["inputs/sample_digest"]))) == 32


Transition = collections.namedtuple("Transition", "states actions rewards next_states")


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "eager"])
@pytest.mark.parametrize("together", [False, True], ids=["arguments", "a tuple"])
def test_every_argument_of_a_step_is_recorded_and_an_action_is_no_target(
    tmp_path: Path, compiled: bool, together: bool
) -> None:
    path, model, rng = tmp_path / "run.zarr", mlp(), np.random.default_rng(0)

    def step(states: Any, actions: Any, rewards: Any, next_states: Any, weights: Any) -> None:
        with tf.GradientTape() as tape:
            now = tf.gather(model(states, training=True), actions, batch_dims=1)
            then = tf.reduce_max(model(next_states, training=True), axis=1)
            loss = tf.reduce_mean(tf.square(rewards + 0.9 * then - now)) * tf.reduce_sum(weights)
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    def of_tuple(transition: Any) -> None:
        arguments: Any = (*transition, tf.ones(3))
        step(*arguments)

    given = Transition(
        rng.normal(size=(32, 3)).astype(np.float32),
        rng.integers(0, 2, 32),
        rng.normal(size=32).astype(np.float32),
        rng.normal(size=(32, 3)).astype(np.float32),
    )
    run: Any = of_tuple if together else step
    with Tracer(path, samples=8, on_error="raise", progress=False) as tracer:
        run = tracer.wrap(
            tf.function(run) if compiled else run, models=[model], optimizers=[model.optimizer]
        )
        for start in range(0, 32, 8):
            batch = Transition(*(tf.constant(part[start : start + 8]) for part in given))
            run(batch) if together else run(*batch, tf.ones(3))
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    names = ("x", "x_actions", "x_rewards", "x_next_states")
    for name, values in zip(names, given, strict=True):
        found = np.asarray(group[f"inputs/{name}"])
        assert found.tobytes() == values.reshape(found.shape).tobytes()
    assert "inputs/y" not in group
    attributes = read_attributes(path)
    columns = dict(zip(attributes.sample_statistics, range(99), strict=False))
    statistics = np.asarray(group["inputs/sample_statistics"]).reshape(32, -1)
    assert statistics[:, columns["x_actions/category"]].tolist() == given.actions.tolist()
    assert_allclose(statistics[:, columns["x_rewards/mean"]], given.rewards)
    missing = {entry.path: entry.reason for entry in attributes.missing}
    if not together:
        assert "does not count the samples" in missing["x_weights"]


def test_targets_among_many_arguments_are_found_by_their_names() -> None:
    part = np.zeros(3)

    def target(*names: str) -> str | None:
        found = batch_of_arguments({name: np.full(3, n) for n, name in enumerate(names)})
        return None if found.y is None else names[int(found.y[0])]

    assert target("images", "masks") == "masks"
    assert target("x", "y", "w") == "y"
    assert target("inp", "targ", "hidden") == "targ"
    assert target("states", "actions", "advantages", "returns") is None
    assert batch_of_arguments({"data": (part, part + 1, part)}).y is not None  # as `fit` takes them
    assert batch_of_arguments({"data": (part, part + 1, part, part)}).y is None
