"""Steps that draw random numbers from a state that cannot be put back: they draw no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from keras_models import mlp, vectors, weights_of
from steptrace_analyzer import open_trace
from steptrace_schema.store.opening import read_attributes
from steptrace_tracer import Tracer
from steptrace_tracer.capture.random_draws import draws_inside

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def categorical(x: Any) -> Any:
    return x + tf.cast(tf.random.categorical(tf.zeros((8, 4)), 3), tf.float32)


def candidates(x: Any) -> Any:
    classes = tf.zeros((1, 1), tf.int64)
    return x + tf.cast(tf.random.uniform_candidate_sampler(classes, 1, 3, False, 9)[0], tf.float32)


def conditional(x: Any) -> Any:
    return tf.cond(tf.reduce_all(x < 1e9), lambda: normal(x), lambda: x)


def normal(x: Any) -> Any:
    return x + tf.random.normal(tf.shape(x))


def truncated(x: Any) -> Any:
    return x + tf.random.truncated_normal(tf.shape(x))


def step_of(model: Any, noise: Callable[[Any], Any]) -> Any:
    @tf.function  # type: ignore[untyped-decorator]
    def train_step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(noise(x)) - y))
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return train_step


def train(noise: Callable[[Any], Any], path: Path | None) -> list[Any]:
    model = mlp()
    tf.random.set_seed(5)
    x, y = (tf.constant(values) for values in vectors(32))
    step = step_of(model, noise)
    tracer = None if path is None else Tracer(path, progress=False)
    if tracer is not None:
        step = tracer.wrap(step, models=[model], optimizers=[model.optimizer])
    for start in range(0, 32, 8):
        step(x[start : start + 8], y[start : start + 8])
    if tracer is not None:
        tracer.close()
    return weights_of(model)


def assert_same(one: list[Any], other: list[Any]) -> None:
    for left, right in zip(one, other, strict=True):
        assert left.tobytes() == right.tobytes()


@pytest.mark.parametrize("noise", [categorical, candidates, conditional, truncated])
def test_any_operation_with_a_generator_draws_what_it_draws_without_the_tracer(
    tmp_path: Path, noise: Callable[[Any], Any]
) -> None:
    path = tmp_path / "run.zarr"
    assert_same(train(noise, None), train(noise, path))
    assert read_attributes(path).status == "complete"


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remember proofs of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("cache", "late_taps")
def test_taps_that_change_later_bits_are_found_and_the_same_numbers_are_drawn_beside(
    tmp_path: Path,
) -> None:
    path, again = (tmp_path / f"{name}.zarr" for name in ("run", "again"))
    expected = train(truncated, None)
    assert_same(expected, train(truncated, path))
    found = read_attributes(path)
    assert [(p.step, p.identical) for p in found.proofs] == [(0, True), (1, True), (2, False)]
    assert set(found.capture.values()) == {"beside"}
    assert_same(expected, train(truncated, again))  # beside from the first step on
    for trace in map(open_trace, (path, again)):
        for weight in ("hidden/kernel", "out/bias"):
            # Updates are of the training, and gradients of what was observed beside it.
            gradients = np.asarray(trace[f"gradients/mlp/{weight}"])
            updates = np.asarray(trace[f"updates/mlp/{weight}"])
            assert_allclose(updates[:4], -0.1 * gradients[:4], rtol=2e-5, atol=2e-7)


@pytest.mark.usefixtures("cache")
def test_several_steps_that_draw_are_compared_and_those_without_a_seed_have_no_bits_to_keep(
    tmp_path: Path,
) -> None:
    def by_chance(x: Any) -> Any:
        return x + tf.raw_ops.RandomStandardNormal(shape=tf.shape(x), dtype=tf.float32)

    seeded, unseeded = (tmp_path / f"{name}.zarr" for name in ("seeded", "unseeded"))
    train(normal, seeded)
    assert [p.step for p in read_attributes(seeded).proofs if p.identical] == [0, 1, 2, 3]
    train(by_chance, unseeded)
    found = read_attributes(unseeded)
    assert found.status == "complete"
    assert [(p.identical, p.repeats) for p in found.proofs] == [(False, False)]


def test_a_function_that_all_copies_of_a_step_share_is_not_run_twice(tmp_path: Path) -> None:
    expected = train(tf.function(normal), None)
    with pytest.warns(RuntimeWarning, match="a tf.function that it calls draws random numbers"):
        found = train(tf.function(normal), tmp_path / "run.zarr")
    assert_same(expected, found)


def test_a_probe_does_not_draw_what_the_training_would(tmp_path: Path) -> None:
    class Noisy(keras.layers.Layer):  # type: ignore[misc]
        @tf.function  # type: ignore[untyped-decorator]
        def call(self, x: Any) -> Any:
            return normal(x)

    def fit(callbacks: list[Any]) -> list[Any]:
        keras.utils.set_random_seed(5)
        model = keras.Sequential([keras.Input((3,)), Noisy(), keras.layers.Dense(2)])
        model.compile("sgd", "mse")
        x, y = vectors(32)
        model.fit(x, y, batch_size=8, verbose=0, shuffle=False, callbacks=callbacks)
        return weights_of(model)

    expected = fit([])
    with pytest.warns(RuntimeWarning, match="a tf.function that it calls draws random numbers"):
        found = fit([Tracer(tmp_path / "run.zarr", progress=False)])
    assert_same(expected, found)


def test_calls_are_counted_but_loops_and_conditions_are_not() -> None:
    inner = tf.function(normal)
    x = tf.TensorSpec((8, 3))
    own = tf.function(conditional).get_concrete_function(x)
    called = tf.function(lambda x: conditional(inner(x))).get_concrete_function(x)
    assert [draws_inside(own, depth) for depth in (0, 1)] == [True, False]
    assert [draws_inside(called, depth) for depth in (0, 1, 2)] == [True, True, False]
