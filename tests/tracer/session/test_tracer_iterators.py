"""Custom loops whose step takes its batch itself: from an iterator, or from anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_schema.names import KINDS
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer
from two_layers import TwoLayers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STEPS, BATCH, RATE = 4, 6, 0.05


class Loop:
    """A network, its data, and steps that take their batches in different ways."""

    def __init__(self) -> None:
        self.model = mlp()
        self.optimizer = keras.optimizers.SGD(RATE)
        self.optimizer.build(self.model.trainable_variables)
        self.loss = keras.losses.MeanSquaredError()
        self.x, self.y = vectors(STEPS * BATCH)

    def data(self, mapping: bool = False) -> Any:
        parts = {"image": self.x, "label": self.y} if mapping else (self.x, self.y)
        return tf.data.Dataset.from_tensor_slices(parts).batch(BATCH)

    def generator(self) -> Iterator[tuple[Any, Any]]:
        for i in range(0, STEPS * BATCH, BATCH):
            yield tf.constant(self.x[i : i + BATCH]), tf.constant(self.y[i : i + BATCH])

    def update(self, x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = self.loss(y, self.model(x, training=True))
        weights = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    def by_next(self, iterator: Any) -> Any:
        return self.update(*next(iterator))

    def by_get_next(self, iterator: Any) -> Any:
        x, y = iterator.get_next()
        return self.update(x, y)

    def by_mapping(self, iterator: Any) -> Any:
        batch = next(iterator)
        return self.update(batch["image"], batch["label"])

    def by_two(self, iterator: Any) -> Any:
        return self.update(*next(iterator)) + self.update(*next(iterator))


def train(
    path: Path | None, take: str, source: str, *, compiled: bool, **settings: Any
) -> tuple[Loop, list[float]]:
    loop = Loop()
    step: Any = getattr(loop, take)
    step = tf.function(step) if compiled else step
    tracer = None
    if path is not None:
        tracer = Tracer(
            path, kinds=KINDS, probe_gradients_every=1, progress=False, samples=BATCH, **settings
        )
        step = tracer.wrap(step, models=[loop.model], optimizers=[loop.optimizer])
    if source == "generator":
        iterator: Any = loop.generator()
    else:
        iterator = iter(loop.data(mapping=source == "mapping"))
    losses: list[float] = []
    while True:
        try:
            losses.append(float(step(iterator)))
        except (StopIteration, tf.errors.OutOfRangeError):
            break
    if tracer is not None:
        tracer.close()
    return loop, losses


def assert_recorded(path: Path, losses: list[float], *, probe: bool = True) -> None:
    """Compare all that is recorded with NumPy."""
    assert validate(path) == []
    group: Any = zarr.open_group(path, mode="r")
    assert np.asarray(group["scalars/loss"]).tolist() == losses
    x, y = vectors(STEPS * BATCH)
    for t in range(STEPS):
        rows = slice(t * BATCH, (t + 1) * BATCH)
        net = TwoLayers(group, t)
        assert net.row("inputs/y").tobytes() == y[rows].tobytes()
        net.agree_outputs(x[rows])
        net.agree_gradients(x[rows], lambda out: 2 * (out - y[rows]) / out.size)  # noqa: B023
        if probe:
            net.agree_probe()


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("take", "source", "compiled"),
    [
        ("by_next", "data", True),
        ("by_next", "data", False),
        ("by_next", "generator", False),
        ("by_get_next", "data", True),
        ("by_mapping", "mapping", True),
    ],
)
def test_a_step_that_takes_its_batch_from_an_iterator_is_recorded_and_not_changed(
    tmp_path: Path, take: str, source: str, compiled: bool
) -> None:
    path = tmp_path / "run.zarr"
    plain, expected = train(None, take, source, compiled=compiled)
    traced, losses = train(path, take, source, compiled=compiled, on_error="raise")
    assert losses == expected
    assert len(losses) == STEPS
    for one, other in zip(weights_of(plain.model), weights_of(traced.model), strict=True):
        assert one.tobytes() == other.tobytes()
    assert_recorded(path, losses)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_of_a_step_without_arguments_the_batch_is_what_its_model_is_called_with(
    tmp_path: Path, compiled: bool
) -> None:
    path = tmp_path / "run.zarr"
    found = []
    for trace in (None, path):
        loop = Loop()
        iterator = iter(loop.data())

        def step(loop: Loop = loop, iterator: Any = iterator) -> Any:
            return loop.update(*next(iterator))

        run: Any = tf.function(step) if compiled else step
        if trace is None:
            expected = [float(run()) for _ in range(STEPS)]
        else:
            settings: dict[str, Any] = {"on_error": "raise", "progress": False}
            capture: Any = "inside" if compiled else "auto"
            with Tracer(
                trace,
                kinds=KINDS,
                probe_gradients_every=1,
                samples=BATCH,
                capture=capture,
                probe=loop.x[:4],
                **settings,
            ) as tracer:
                run = tracer.wrap(run, models=[loop.model], optimizers=[loop.optimizer])
                losses = [float(run()) for _ in range(STEPS)]
        found.append(weights_of(loop.model))
    assert losses == expected
    for one, other in zip(*found, strict=True):
        assert one.tobytes() == other.tobytes()
    assert_recorded(path, losses)


def test_a_step_of_several_batches_is_said_not_to_be_recorded_and_not_changed(
    tmp_path: Path,
) -> None:
    plain, expected = train(None, "by_two", "data", compiled=True)
    with pytest.warns(RuntimeWarning, match="more than one batch from its iterator; take them"):
        traced, losses = train(tmp_path / "run.zarr", "by_two", "data", compiled=True)
    assert losses == expected
    for one, other in zip(weights_of(plain.model), weights_of(traced.model), strict=True):
        assert one.tobytes() == other.tobytes()


def test_an_epoch_in_one_function_is_said_not_to_be_recorded_and_what_to_wrap(
    tmp_path: Path,
) -> None:
    loop = Loop()

    @tf.function  # type: ignore[untyped-decorator]
    def epoch(data: Any) -> Any:
        total = 0.0
        for x, y in data:
            total += loop.update(x, y)
        return total

    with Tracer(tmp_path / "run.zarr", progress=False) as tracer:
        run: Callable[[Any], Any] = tracer.wrap(
            epoch, models=[loop.model], optimizers=[loop.optimizer]
        )
        with pytest.warns(RuntimeWarning, match="many steps in one call; wrap the function"):
            run(loop.data())
    assert not (tmp_path / "run.zarr").exists()
    assert int(loop.optimizer.iterations) == STEPS


def test_a_loop_over_batches_in_one_function_is_said_not_to_be_recorded_and_not_changed(
    tmp_path: Path,
) -> None:
    def train(path: Path | None) -> Any:
        loop = Loop()

        @tf.function  # type: ignore[untyped-decorator]
        def steps(iterator: Any, count: Any) -> Any:
            for _ in tf.range(count):
                loop.update(*next(iterator))

        run, tracer = steps, None if path is None else Tracer(path, progress=False)
        if tracer is not None:
            run = tracer.wrap(steps, models=[loop.model], optimizers=[loop.optimizer])
        iterator = iter(loop.data())
        for _ in range(2):
            run(iterator, tf.constant(STEPS // 2))
        if tracer is not None:
            tracer.close()
        return weights_of(loop.model)

    plain = train(None)
    with pytest.warns(RuntimeWarning, match="takes its batches inside of a loop"):
        traced = train(tmp_path / "run.zarr")
    for one, other in zip(plain, traced, strict=True):
        assert one.tobytes() == other.tobytes()
