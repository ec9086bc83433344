"""A step that fails after it has changed some weights: the training is put back, or it stops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np
import pytest
import tensorflow as tf

from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer
from steptrace_tracer.capture import nearby
from steptrace_tracer.capture.proven_step import ProvenStep
from steptrace_tracer.capture.readings import Readings
from steptrace_tracer.capture.traced_step import TracedStep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

How = Literal["fit", "wrapped"]
BATCH, STEPS = 8, 6
_traced = [False]
"""Whether the step with its taps is being compiled, or, eagerly, runs."""


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Tell the optimizer whether it is inside of the step with its taps."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    observed = TracedStep._observed

    def watching(self: TracedStep, *args: Any, **kwargs: Any) -> Any:
        _traced[0] = True
        try:
            return observed(self, *args, **kwargs)
        finally:
            _traced[0] = False

    monkeypatch.setattr(TracedStep, "_observed", watching)
    keras.utils.clear_session()
    yield
    _traced[0] = False


class Failing(keras.optimizers.SGD):  # type: ignore[misc]
    """Momentum whose step `at` fails behind its first assignment: with taps only, or always."""

    def __init__(self, at: int | None, always: bool = False, momentum: float = 0.9) -> None:
        super().__init__(0.1, momentum=momentum)
        self.at, self.always, self.assigned = at, always, 0

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        self.assigned = 0
        return super().apply(grads, trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient, variable, learning_rate)
        self.assigned += 1
        if self.at is None or self.assigned > 1 or not (_traced[0] or self.always):
            return
        # Read after the assignment, so that it is done when this fails.
        own = variable.value if isinstance(variable, keras.Variable) else variable
        written = tf.reduce_all(tf.math.is_finite(own.read_value()))
        fine = tf.not_equal(tf.cast(self.iterations.value, tf.int32), self.at)
        tf.debugging.Assert(tf.logical_and(written, fine), ["no room for a tap"])


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * STEPS, 3)).astype(np.float32)
    return x, rng.normal(size=(BATCH * STEPS, 2)).astype(np.float32)


def build(optimizer: Any, eager: bool) -> Any:
    """Return a model with states of every kind: seeds, momenta, metrics, moving averages."""
    keras.utils.set_random_seed(7)
    normalised = [keras.layers.BatchNormalization()] if eager else []
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, activation="tanh"),
            *normalised,
            keras.layers.Dropout(0.4),
            keras.layers.Dense(2),
        ],
        name="net",
    )
    model.compile(optimizer, "mse", metrics=["mae"], run_eagerly=eager, jit_compile=False)
    return model


class Training:
    """A training whose every variable can be compared afterwards."""

    def __init__(self, how: How, eager: bool, optimizer: Any) -> None:
        self.how, self.optimizer = how, optimizer
        self.model = build(optimizer, eager)
        self.metric = metric = keras.metrics.Mean()
        self.updates = updates = tf.Variable(0)
        model = self.model

        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            updates.assign_add(1)
            metric.update_state(loss)
            weights = model.trainable_variables
            optimizer.apply(tape.gradient(loss, weights), weights)
            return loss

        self.step = step if eager else tf.function(step)
        self.calls = 0

    def run(self, tracer: Tracer | None, rows: int = BATCH * STEPS) -> Training:
        x, y = (values[:rows] for values in data())
        if self.how == "fit":
            callbacks = [] if tracer is None else [tracer]
            self.model.fit(x, y, BATCH, verbose=0, shuffle=False, callbacks=callbacks)
            return self
        step: Callable[..., Any] = self.step if tracer is None else tracer.wrap(self.step)
        for begin in range(0, len(x), BATCH):
            step(tf.constant(x[begin : begin + BATCH]), tf.constant(y[begin : begin + BATCH]))
            self.calls += 1
        if tracer is not None:
            tracer.close()
        return self

    def state(self) -> dict[str, bytes]:
        variables = [*self.model.variables, *self.optimizer.variables, *self.metric.variables]
        if self.how == "fit":
            variables += self.model.metrics_variables
        found = {f"{n} {v.path}": np.asarray(v).tobytes() for n, v in enumerate(variables)}
        return found | {"updates": self.updates.numpy().tobytes()}


def trace(path: Path, **fields: Any) -> Tracer:
    return Tracer(path, progress=False, **fields)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize("how", ["fit", "wrapped"])
@pytest.mark.parametrize("at", [1, 3])
def test_a_tap_that_fails_behind_the_first_assignment_leaves_the_training_or_stops_it(
    tmp_path: Path, how: How, eager: bool, at: int
) -> None:
    path = tmp_path / "run.zarr"
    expected = Training(how, eager, Failing(None)).run(None)
    keras.utils.clear_session()
    training = Training(how, eager, Failing(at))
    # The first two steps are run from a copy of the state, and an eager one is as well.
    is_restored = eager or at == 1
    if is_restored:
        with pytest.warns(RuntimeWarning, match="the training continues without the tracer"):
            training.run(trace(path))
        assert training.state() == expected.state()
    else:
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            training.run(trace(path))
        assert "some weights may have been changed" in "".join(caught.value.__notes__)
        assert int(training.optimizer.iterations) <= at + 1
        assert training.calls in (0, at)
    found = read_attributes(path)
    assert found.status == "incomplete"
    assert "no room for a tap" in str(found.status_reason)
    assert ("some weights may have been changed" in str(found.status_reason)) != is_restored
    assert found.steps_recorded["gradients"] == at
    assert [p for p in validate(path) if p.rule != "R11"] == []


@pytest.mark.sampled(1)
@pytest.mark.parametrize("how", ["fit", "wrapped"])
def test_a_tap_that_fails_beside_the_training_leaves_it_as_it_is(tmp_path: Path, how: How) -> None:
    expected = Training(how, False, Failing(None)).run(None)
    keras.utils.clear_session()
    training = Training(how, False, Failing(3))
    path = tmp_path / "run.zarr"
    if how == "fit":  # whose optimizer assigns nothing beside the training
        training.run(trace(path, capture="beside"))
    else:
        with pytest.warns(RuntimeWarning, match="no room for a tap.*the training continues"):
            training.run(trace(path, capture="beside"))
        assert read_attributes(path).steps_recorded["gradients"] == 3
    assert training.state() == expected.state()


def test_an_eager_step_that_made_variables_before_a_tap_failed_stops_the_training(
    tmp_path: Path,
) -> None:
    training = Training("wrapped", True, Failing(0))  # which makes its momenta in this very step
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        training.run(trace(tmp_path / "run.zarr"))
    assert "some weights may have been changed" in "".join(caught.value.__notes__)
    assert training.calls == 0


@pytest.mark.sampled(2)
@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize("how", ["fit", "wrapped"])
def test_a_step_that_fails_by_itself_fails_as_without_the_tracer(
    tmp_path: Path, how: How, eager: bool
) -> None:
    plain = Training(how, eager, Failing(3, always=True))
    with pytest.raises(tf.errors.InvalidArgumentError, match="no room"):
        plain.run(None)
    keras.utils.clear_session()
    training = Training(how, eager, Failing(3, always=True))
    path = tmp_path / "run.zarr"
    with pytest.raises(tf.errors.InvalidArgumentError, match="no room"):
        training.run(trace(path))
    if eager:  # in which order a compiled step assigns is not known
        assert training.state() == plain.state()
    assert training.calls == plain.calls
    assert read_attributes(path).status == "incomplete"
    assert read_attributes(path).steps_recorded["gradients"] == 3


@pytest.mark.sampled(2)
@pytest.mark.parametrize("how", ["fit", "wrapped"])
@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
def test_a_tap_that_fails_behind_the_whole_step_does_not_have_it_done_twice(
    tmp_path: Path, how: How, eager: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Training(how, eager, Failing(None)).run(None)
    keras.utils.clear_session()
    call, calls = TracedStep._call, []

    def then_failing(self: TracedStep, args: Any, kwargs: Any) -> Any:
        found = call(self, args, kwargs)
        calls.append(1)
        if len(calls) == 4:
            msg = "a tap that is no tensor"
            raise TypeError(msg)
        return found

    monkeypatch.setattr(nearby, "TRIALS", 0)  # which would be calls of the first step
    monkeypatch.setattr(TracedStep, "_call", then_failing)
    training = Training(how, eager, Failing(None))
    with pytest.warns(RuntimeWarning, match="a tap that is no tensor.*the training continues"):
        training.run(trace(tmp_path / "run.zarr"))
    assert training.state() == expected.state()
    assert read_attributes(tmp_path / "run.zarr").steps_recorded["gradients"] == 3


@pytest.mark.sampled(1)
@pytest.mark.parametrize("how", ["fit", "wrapped"])
def test_an_eager_tap_that_fails_behind_the_step_does_not_have_it_done_twice(
    tmp_path: Path, how: How, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Training(how, True, Failing(None)).run(None)
    keras.utils.clear_session()

    def failing(*_: Any) -> Any:
        msg = "no updates"
        raise TypeError(msg)

    monkeypatch.setattr(Readings, "updates", failing)
    training = Training(how, True, Failing(None))
    with pytest.warns(RuntimeWarning, match="no updates; the training continues"):
        training.run(trace(tmp_path / "run.zarr"))  # in its first step, which makes the momenta
    assert training.state() == expected.state()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("how", ["fit", "wrapped"])
def test_a_tap_that_cannot_be_compiled_leaves_the_variables_that_the_step_makes(
    tmp_path: Path, how: How, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The momenta are made while the step is compiled, and get their values after that.
    expected = Training(how, False, Failing(None)).run(None)
    keras.utils.clear_session()
    update_step = Failing.update_step

    def failing(self: Failing, *args: Any) -> None:
        update_step(self, *args)
        if _traced[0]:
            msg = "no tensor of the graph"
            raise TypeError(msg)

    monkeypatch.setattr(Failing, "update_step", failing)
    training = Training(how, False, Failing(None))
    with pytest.warns(RuntimeWarning, match="no tensor of the graph; the training continues"):
        training.run(trace(tmp_path / "run.zarr"))
    assert training.state() == expected.state()


def test_a_tap_that_cannot_be_compiled_for_a_new_shape_leaves_the_training_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = BATCH * STEPS - 3  # the last batch is smaller
    expected = Training("wrapped", False, Failing(None)).run(None, rows)
    keras.utils.clear_session()
    step, seen = ProvenStep.run, []
    compiled = TracedStep._compiled_step

    def of_this_shape(self: ProvenStep, args: Any, *others: Any) -> Any:
        seen.append(tf.nest.flatten(args)[0].shape[0])
        return step(self, args, *others)

    def failing(self: TracedStep, *args: Any, **kwargs: Any) -> Any:
        if seen[-1] == BATCH - 3:
            msg = "no tensor of this shape"
            raise TypeError(msg)
        return compiled(self, *args, **kwargs)

    monkeypatch.setattr(ProvenStep, "run", of_this_shape)
    monkeypatch.setattr(TracedStep, "_compiled_step", failing)
    training = Training("wrapped", False, Failing(None))
    with pytest.warns(RuntimeWarning, match="no tensor of this shape; the training continues"):
        training.run(trace(tmp_path / "run.zarr"), rows)
    assert training.state() == expected.state()
    assert read_attributes(tmp_path / "run.zarr").steps_recorded["gradients"] == STEPS - 1
