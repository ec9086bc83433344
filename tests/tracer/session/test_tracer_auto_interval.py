"""``every="auto"``: the interval that keeps the slow-down which the user allows.

No test looks at the time: a training is simulated, or its clock is.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr

from keras_models import cnn, images, mlp, vectors, weights_of
from steptrace_analyzer.cli.app import run
from steptrace_schema.format.attributes import Interval
from steptrace_schema.format.retention import last
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Policy, Tracer
from steptrace_tracer.session.recorded_steps import RecordedSteps

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclasses.dataclass
class Training:
    """A training on a clock of its own.

    Attributes
    ----------
    steps
        What says which steps are recorded.
    step
        Seconds of a step.
    record
        Seconds that the trainer needs for a record.
    moved
        Seconds of the recorder for a record, during which steps take twice as long.
    count
        Steps of an execution.
    validation
        Seconds between two epochs.
    """

    policy: dataclasses.InitVar[Policy]
    step: float = 0.010
    record: float = 0.0
    moved: float = 0.0
    count: int = 1
    validation: float = 0.0
    now: float = 0.0
    number: int = 0
    begun: bool = False
    shard: int = 8
    waiting: int = 0
    work: float = 0.0

    def __post_init__(self, policy: Policy) -> None:
        self.steps = RecordedSteps(policy, lambda: self.now)
        self.recorded: list[int] = []

    def is_moving(self) -> bool:
        return self.work > 0

    def run(self, steps: int, epoch_steps: int = 10**9) -> Training:
        """Train so many steps."""
        end = self.number + steps
        while self.number < end:
            epoch = self.number // epoch_steps
            if self.number and self.number % epoch_steps == 0:
                self._pass(self.validation)
            recording: Any = self
            self.steps.turn(self.number, epoch, self.count, None, recording)
            if not self.begun:
                self.begun = True
                self.steps.begin(self.number)
            numbers = range(self.number, self.number + self.count)
            found = [number for number in numbers if self.steps.records(number, epoch)]
            self.recorded += found
            self._pass(self.step * self.count + self.record * len(found))
            self.waiting += len(found)
            if self.waiting >= self.shard:
                self.work += self.moved * self.waiting
                self.waiting = 0
            self.number += self.count
        return self

    def _pass(self, seconds: float) -> None:
        """Let time pass, of which the recorder takes half while it has something to do."""
        beside = min(self.work, seconds)
        self.work -= beside
        self.now += seconds + beside

    @property
    def every(self) -> int:
        return self.intervals[-1].every

    @property
    def intervals(self) -> tuple[Interval, ...]:
        return self.steps.news()["intervals"]

    def slowdown(self, steps: int) -> float:
        """Train so many steps, and return by how much they are slowed down."""
        before = self.now
        self.run(steps)
        return (self.now - before) / (steps * self.step) - 1


AUTO = Policy(max_slowdown=0.1)


@pytest.mark.parametrize(
    ("record", "every"),
    [(0.0, 1), (0.0009, 1), (0.0011, 2), (0.004, 5), (0.012, 20), (0.18, 200), (100.0, 50_000)],
)
def test_the_smallest_interval_is_taken_that_keeps_what_is_allowed(
    record: float, every: int
) -> None:
    training = Training(AUTO, record=record).run(30)
    assert training.every == every
    first, found = training.intervals
    assert (first.step, first.every, first.step_seconds) == (0, 2, None)
    assert found.step_seconds == pytest.approx(0.01)
    assert found.record_seconds == pytest.approx(record, abs=1e-6)
    assert f"{record * 1e3:.3g} ms to steps of 10 ms" in found.reason or not record
    known = [1, *(entry.every for entry in training.intervals)]  # of the step that begins it
    assert training.recorded[:3] == [0, 2, 4]
    assert all(any(step % n == 0 for n in known) for step in training.recorded)
    assert training.slowdown(4000) <= 0.1 or every == 50_000


@pytest.mark.parametrize(
    ("command", "given"), [("record", "often"), ("plan", "0"), ("verify", "-2"), ("record", "1.5")]
)
def test_an_interval_that_is_none_is_one_sentence(
    command: str, given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text("raise RuntimeError('must not run')")
    assert run([command, "--every", given, str(script)]) == 2
    said = f"error: --every is '{given}'; give a number of steps, from 1 on, or auto\n"
    assert capsys.readouterr().err == said


def test_every_auto_is_a_tenth_and_other_numbers_are_kept() -> None:
    assert Policy(**{"every": "auto"}) == AUTO  # type: ignore[arg-type]
    assert Policy(**{"every": "auto", "max_slowdown": 0.5}).max_slowdown == 0.5  # type: ignore[arg-type]
    assert AUTO.every == 1  # which readers of format 1.2 understand
    assert not AUTO.derives_updates
    with pytest.raises(ValueError, match="number of steps, or 'auto'; found 'often'"):
        Policy(**{"every": "often"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_slowdown"):
        Policy(max_slowdown=0.0)


def test_an_interval_of_the_user_is_the_smallest_one() -> None:
    policy = Policy(every=3, max_slowdown=0.1)
    assert Training(policy, record=0.0).run(300).every == 3
    training = Training(policy, record=0.004).run(300)
    assert training.every == 6
    assert all(step % 3 == 0 for step in training.recorded)


def test_what_the_recorder_takes_counts_too() -> None:
    training = Training(AUTO, record=0.0001, moved=0.008)
    training.run(3000)
    assert 5 <= training.every <= 20
    assert training.slowdown(1000) <= 0.1
    assert len(training.intervals) < 20


def test_a_recorder_that_does_not_keep_up_is_given_less() -> None:
    training = Training(Policy(every=2, max_slowdown=5.0), moved=0.5).run(5000)
    assert "the recorder did not keep up" in " ".join(i.reason for i in training.intervals)
    assert training.every >= 20


@pytest.mark.parametrize("begins", [0.0002, 0.018])
def test_an_interval_that_proves_wrong_is_changed(begins: float) -> None:
    training = Training(AUTO, record=begins).run(1000)
    assert training.every == (1 if begins < 0.01 else 20)
    training.record = 0.012 if begins < 0.01 else 0.0002
    training.run(15_000)
    assert training.every == (20 if begins < 0.01 else 1)


def test_a_training_that_becomes_slower_by_itself_keeps_its_interval() -> None:
    training = Training(AUTO, record=0.004).run(1000)
    training.step, training.record = 0.04, 0.016
    training.run(5000)
    assert [entry.every for entry in training.intervals] == [2, 5]
    everything = Training(AUTO, record=0.0005).run(200)
    everything.step = 0.013
    everything.run(5000)
    assert everything.every == 1


def test_noise_does_not_move_an_interval_to_and_fro() -> None:
    rng = np.random.default_rng(0)
    training = Training(AUTO, record=0.009).run(30)
    for _ in range(10_000):
        training.step = 0.01 * rng.lognormal(0.0, 0.3)
        training.record = 0.009 * rng.lognormal(0.0, 0.3)
        training.run(1)
    assert {entry.every for entry in training.intervals[1:]} <= {5, 10, 20}
    assert len(training.intervals) <= 8


def test_what_happens_between_epochs_is_not_taken_for_the_cost_of_recording() -> None:
    training = Training(AUTO, record=0.0005, validation=0.5).run(4000, epoch_steps=25)
    assert training.every == 1
    training = Training(AUTO, record=0.018, validation=0.5).run(4000, epoch_steps=25)
    assert training.every == 20
    # With epochs of a single step it is a part of every step.
    training = Training(AUTO, record=0.019, validation=0.09).run(2_000, epoch_steps=1)
    assert training.every == 2


def test_executions_of_several_steps_are_recorded_at_multiples_of_them() -> None:
    training = Training(AUTO, record=0.039, count=4).run(2000)
    assert training.every == 40
    assert set(np.diff(training.recorded[-10:])) == {40}


def test_windows_are_kept() -> None:
    training = Training(Policy(max_slowdown=0.1, windows=((100, 1100),)), record=0.004)
    training.run(1400)
    assert min(training.recorded) >= 100
    assert max(training.recorded) < 1100
    assert training.every == 5


class Clock:
    """Times of a real training, which are those of no machine."""

    def __init__(self, tracer: Tracer, step: float, record: float) -> None:
        self.steps = tracer._settings.recorded_steps
        self.steps._clock = self
        self.step, self.record, self.now = step, record, 0.0

    def __call__(self) -> float:
        present = self.steps._present
        if present is not None:
            self.now += self.step + (self.record if present.recorded else 0)
        return self.now


def auto(path: Path, record: float = 0.004, **fields: Any) -> Tracer:
    tracer = Tracer(path, every="auto", on_error="raise", progress=False, **fields)
    Clock(tracer, 0.01, record)
    return tracer


def fit(model: Any, callbacks: list[Any], epochs: int = 4, **fields: Any) -> Any:
    x, y = images(96) if model.name == "cnn" else vectors(96)
    model.fit(x, y, batch_size=8, epochs=epochs, verbose=0, callbacks=callbacks, **fields)
    return model


@pytest.mark.parametrize(
    ("build", "fields"),
    [(cnn, {}), (mlp, {"retain": last(3, every=4)}), (mlp, {"disk_limit": 3_000_000})],
    ids=["all", "retain", "disk_limit"],
)
def test_training_is_bit_identical_and_the_trace_says_what_was_chosen(
    tmp_path: Path, build: Callable[[], Any], fields: dict[str, Any]
) -> None:
    path = tmp_path / "run.zarr"
    traced = fit(build(), [auto(path, **fields)], epochs=8)
    for a, b in zip(weights_of(fit(build(), [], epochs=8)), weights_of(traced), strict=True):
        np.testing.assert_array_equal(a, b)
    assert validate(path) == []
    attributes = read_attributes(path)
    assert attributes.status == "complete"
    assert (attributes.policy.every, attributes.policy.max_slowdown) == (1, 0.1)
    first, found = attributes.intervals
    assert (first.step, first.every, found.every) == (0, 2, 5)
    steps = np.asarray(zarr.open_group(path, mode="r")["scalars/step"])
    expected = [n for n in range(96) if n % (2 if n < found.step else 5) == 0]
    assert steps.tolist() == expected


def test_the_trace_holds_updates_as_steps_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    fit(mlp(), [auto(path, record=0.0)])
    group = zarr.open_group(path, mode="r")
    assert read_attributes(path).intervals[-1].every == 1
    assert "updates" in group


def test_steps_per_execution(tmp_path: Path) -> None:
    def build() -> Any:
        model = mlp()
        model.compile("sgd", "mse", steps_per_execution=3)
        return model

    path = tmp_path / "run.zarr"
    traced = fit(build(), [auto(path, record=0.012)], epochs=12, shuffle=False)
    for a, b in zip(
        weights_of(fit(build(), [], epochs=12, shuffle=False)), weights_of(traced), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    first, *others = read_attributes(path).intervals
    assert first.every == 6
    assert others
    assert all(entry.every % 3 == 0 for entry in others)


def test_a_custom_loop(tmp_path: Path) -> None:
    x, y = vectors(32)

    def loop(path: Path | None) -> Any:
        model, optimizer = mlp(), keras.optimizers.SGD(0.1)

        @tf.function  # type: ignore[untyped-decorator]
        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return loss

        if path is None:
            for _ in range(40):
                step(x, y)
            return model
        with auto(path) as tracer:
            wrapped = tracer.wrap(step, models=[model], optimizers=[optimizer])
            for _ in range(40):
                wrapped(x, y)
        return model

    path = tmp_path / "run.zarr"
    for a, b in zip(weights_of(loop(None)), weights_of(loop(path)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [entry.every for entry in read_attributes(path).intervals] == [2, 5]


def test_a_second_fit_keeps_the_interval_and_another_process_measures_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run.zarr"
    model, tracer = mlp(), auto(path)
    fit(model, [tracer])
    fit(model, [tracer])
    assert [(entry.step > 0, entry.every) for entry in read_attributes(path).intervals] == [
        (False, 2),
        (True, 5),
    ]
    fit(model, [auto(path, resume=True)])
    *_, again, found = read_attributes(path).intervals
    assert (again.step, again.every, found.every) == (96, 2, 5)
    fixed = Tracer(path, every=4, resume=True, on_error="raise", progress=False)
    fit(model, [fixed])
    final = read_attributes(path).intervals[-1]
    assert (final.step, final.every, final.reason) == (144, 4, "the policy says so")
    assert validate(path) == []


def test_processes_that_train_together_are_refused_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="pass a number of steps as every"):
        Tracer(tmp_path / "run.zarr", every="auto")


def test_a_wrong_interval_in_a_trace_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every"):
        Interval(step=0, every=0, reason="none")
