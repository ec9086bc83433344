"""Whether taps change a training is found out, and where they do, it is recorded beside."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from keras_models import cnn, images, mlp, vectors, weights_of
from steptrace_analyzer import open_trace
from steptrace_analyzer.cli.info import info
from steptrace_schema.errors import TraceError
from steptrace_schema.store.opening import read_attributes
from steptrace_tracer import Tracer
from steptrace_tracer.capture import nearby, proof_times, proven_step
from steptrace_tracer.capture.beside_step import BesideStep
from steptrace_tracer.capture.proof_memory import ProofMemory
from steptrace_tracer.capture.several_steps import SeveralSteps
from steptrace_tracer.capture.state import RETURNED, StepState
from steptrace_tracer.capture.traced_step import TracedStep

if TYPE_CHECKING:
    from pathlib import Path

COMPUTED = {"scalars", "gradients", "activations", "activation_gradients", "inputs"}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Remember proofs of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "steptrace" / "proofs"


@pytest.fixture(autouse=True)
def names() -> None:
    """Give the layers of each test the same names."""
    keras.utils.clear_session()


def fit(model: Any, *callbacks: Any, rows: int = 40, epochs: int = 2) -> Any:
    x, y = images(rows) if model.name == "cnn" else vectors(rows)
    model.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return model


def state_of(model: Any) -> list[bytes]:
    return [v.numpy().tobytes() for v in (*model.variables, *model.optimizer.variables)]


def tracer(path: Path, **fields: Any) -> Tracer:
    return Tracer(path, on_error="raise", progress=False, **fields)


@pytest.fixture
def changing_taps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let taps inside the step change one bit of one bias."""
    run = TracedStep.run

    def one_bit(self: TracedStep, args: Any, kwargs: Any, original: Any) -> Any:
        result = run(self, args, kwargs, original)
        bias = self.program.models[0].layers[-1].bias
        bias.assign(np.nextafter(bias.numpy(), np.float32(9)))
        return result

    monkeypatch.setattr(TracedStep, "run", one_bit)


@pytest.mark.usefixtures("changing_taps")
def test_taps_that_change_a_bit_are_found_and_the_training_stays_as_it_is(tmp_path: Path) -> None:
    traced = fit(cnn(), tracer(tmp_path / "run.zarr"))
    assert state_of(traced) == state_of(fit(cnn()))
    found = read_attributes(tmp_path / "run.zarr")
    assert found.status == "complete"
    assert found.capture == dict.fromkeys(COMPUTED, "beside")
    assert [(p.step, p.way, p.identical) for p in found.proofs] == [(0, "inside", False)]
    assert "bias" in str(found.proofs[0].note)


def test_a_step_that_reads_its_weights_apart_is_tried_before_one_beside(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only taps that read the weights in the step change a bit, all is captured inside."""
    call, apart = TracedStep._call, list[bool]()

    def one_bit(self: TracedStep, args: Any, kwargs: Any) -> Any:
        found = call(self, args, kwargs)
        apart.append(self.reads_apart)
        if not self.reads_apart:
            bias = self.program.models[0].layers[-1].bias
            bias.assign(np.nextafter(bias.numpy(), np.float32(9)))
        return found

    monkeypatch.setattr(TracedStep, "_call", one_bit)
    expected = state_of(fit(cnn()))
    for name in ("first", "next"):
        keras.utils.clear_session()
        apart.clear()
        assert state_of(fit(cnn(), tracer(tmp_path / f"{name}.zarr"))) == expected
        found = read_attributes(tmp_path / f"{name}.zarr")
        assert found.capture == dict.fromkeys(COMPUTED, "inside")
        assert all(proof.identical for proof in found.proofs)
        assert [path.read_text() for path in cache.iterdir()] == ["apart"]
        assert apart[1:] == [True] * (len(apart) - 1)
        assert apart[0] == (name == "next")
        assert len(open_trace(tmp_path / f"{name}.zarr")["weights"].step) == 7


@pytest.mark.parametrize("way", ["fit", "several steps", "loop"])
def test_taps_that_change_a_bit_of_what_the_step_returns_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    # A training may go on by its loss: it stops early, or takes another rate.
    def trained(traced: Any) -> tuple[list[float], list[bytes]]:
        keras.utils.clear_session()
        model = mlp()
        if way != "loop":
            model.steps_per_execution = 2 if way == "several steps" else 1
            x, y = vectors(32)
            callbacks = [traced] if traced else []
            done = model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
            return done.history["loss"], state_of(model)

        @tf.function  # type: ignore[untyped-decorator]
        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            gradients = tape.gradient(loss, model.trainable_variables)
            model.optimizer.apply(gradients, model.trainable_variables)
            return {"loss": loss, "name": tf.constant("mean")}

        run = traced.wrap(step) if traced else step
        x, y = map(tf.constant, vectors(8))
        losses = [float(run(x, y)["loss"]) for _ in range(4)]
        if traced:
            traced.close()
        return losses, state_of(model)

    def one_bit(result: Any) -> Any:
        loss = np.nextafter(result.result["loss"].numpy(), np.float32(9))
        return dataclasses.replace(result, result={**result.result, "loss": tf.constant(loss)})

    run, several = TracedStep.run, SeveralSteps.run
    if way == "several steps":
        monkeypatch.setattr(SeveralSteps, "run", lambda *args: [*map(one_bit, several(*args))])
    else:
        monkeypatch.setattr(TracedStep, "run", lambda *args: one_bit(run(*args)))
    assert trained(tracer(tmp_path / "run.zarr")) == trained(None)
    found = read_attributes(tmp_path / "run.zarr")
    if way == "several steps":
        assert any("of 'what the step returned'" in event.message for event in found.events)
    else:
        assert [(p.step, p.identical, p.note) for p in found.proofs] == [(0, False, RETURNED)]
        assert set(found.capture.values()) == {"beside"}


@pytest.mark.usefixtures("late_taps")
def test_taps_that_change_no_bit_by_chance_are_found_from_other_states(tmp_path: Path) -> None:
    traced = fit(cnn(), tracer(tmp_path / "run.zarr"))
    assert state_of(traced) == state_of(fit(cnn()))
    found = read_attributes(tmp_path / "run.zarr")
    assert [(p.step, p.identical, p.repeats) for p in found.proofs] == [(0, False, True)]
    assert set(found.capture.values()) == {"beside"}


def test_a_large_state_is_not_compared_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near: list[int] = []
    put_near = StepState.put_near

    def noted(self: StepState, values: Any, seed: int) -> None:
        near.append(seed)
        put_near(self, values, seed)

    monkeypatch.setattr(StepState, "put_near", noted)
    fit(mlp(), tracer(tmp_path / "small.zarr"))
    assert near
    near.clear()
    keras.utils.clear_session()
    monkeypatch.setattr(nearby, "TRIAL_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    fit(mlp(), tracer(tmp_path / "large.zarr"))
    assert not near
    assert [p.identical for p in read_attributes(tmp_path / "large.zarr").proofs][:2] == [True] * 2


@pytest.mark.sampled(1)
@pytest.mark.parametrize("every", [1, 2])
def test_what_is_recorded_beside_is_what_is_recorded_inside_up_to_rounding(
    tmp_path: Path, every: int
) -> None:
    kinds = ("weights", "gradients", "activations", "activation_gradients", "inputs", "optimizer")
    inside, beside = (tmp_path / f"{way}.zarr" for way in ("inside", "beside"))
    fit(cnn(), tracer(inside, capture="inside", every=every, kinds=kinds))
    keras.utils.clear_session()
    traced = fit(cnn(), tracer(beside, capture="beside", every=every, kinds=kinds))
    assert state_of(traced) == state_of(fit(cnn()))
    one, other = open_trace(inside), open_trace(beside)
    compared = 0
    for node in one.subtree:
        for name, array in node.data_vars.items():
            values = np.asarray(other[f"{node.path}/{name}"])
            kind = node.path.split("/")[1]
            if array.dtype.kind != "f" or name in ("wall_time", "step_duration"):
                continue
            if kind in ("weights", "optimizer", "updates"):  # read around the step: the same bits
                assert np.asarray(array).tobytes() == values.tobytes(), (node.path, name)
            else:
                assert_allclose(values, array, rtol=2e-4, atol=1e-6, err_msg=f"{node.path}/{name}")
            compared += 1
    assert compared > 30


@pytest.mark.usefixtures("changing_taps")
def test_the_step_that_was_compared_is_recorded_as_those_after_it(tmp_path: Path) -> None:
    """Its updates are those of the training, which begin where the comparison began."""
    proved, beside = tmp_path / "proved.zarr", tmp_path / "beside.zarr"
    kinds = ("activations", "gradients", "updates")
    fit(cnn(), tracer(proved, kinds=kinds))
    assert read_attributes(proved).capture["gradients"] == "beside"
    keras.utils.clear_session()
    fit(cnn(), tracer(beside, kinds=kinds, capture="beside"))
    one, other = (open_trace(path) for path in (proved, beside))
    names = [f"{node.path}/{name}" for node in one["updates"].subtree for name in node.data_vars]
    assert len(names) > 5
    for name in names:
        assert np.asarray(one[name])[0].any(), name
        assert np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes(), name


@pytest.mark.long
def test_a_proof_is_remembered_for_the_next_start_of_the_same_training(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(cnn(), tracer(tmp_path / "first.zarr"))
    assert [path.read_text() for path in cache.iterdir()] == ["inside"]
    compared: list[None] = []
    monkeypatch.setattr(
        proven_step, "StepState", lambda *_: compared.append(None)
    )  # which a proof needs
    keras.utils.clear_session()  # as in a new process
    fit(cnn(), tracer(tmp_path / "second.zarr"))
    assert compared == []
    (proof,) = read_attributes(tmp_path / "second.zarr").proofs
    assert proof.identical
    assert proof.note == proven_step.EARLIER
    keras.utils.clear_session()
    another = cnn()
    another.layers[-2].activation = keras.activations.relu
    with pytest.raises(TraceError):  # it is another training, so it is compared again
        fit(another, tracer(tmp_path / "third.zarr"))
    assert len(compared) == 1
    keras.utils.clear_session()
    in_a_loop = cnn()
    in_a_loop.steps_per_execution = 2
    with pytest.raises(TraceError):
        fit(in_a_loop, tracer(tmp_path / "fourth.zarr"))
    assert len(compared) == 2


def test_the_first_steps_and_every_new_shape_are_compared(tmp_path: Path) -> None:
    fit(cnn(), tracer(tmp_path / "run.zarr"))  # 16, 16 and 8 images an epoch
    found = read_attributes(tmp_path / "run.zarr").proofs
    assert [(p.step, p.identical, p.note) for p in found] == [
        (0, True, None),
        (1, True, None),
        (2, True, None),
    ]


def test_a_later_trace_of_the_same_step_says_what_was_compared(tmp_path: Path) -> None:
    model = mlp()
    for number in range(3):
        fit(model, tracer(tmp_path / f"{number}.zarr"))
        found = read_attributes(tmp_path / f"{number}.zarr")
        assert found.capture == dict.fromkeys(COMPUTED, "inside")
        assert all(proof.identical for proof in found.proofs)
        assert found.proofs


def test_a_difference_that_comes_later_is_warned_of_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proven_step, "PROOF_STEPS", 5)
    monkeypatch.setattr(proof_times, "TIMES_AS_LONG", 0)
    monkeypatch.setattr(nearby, "TRIALS", 0)  # which would be runs of the first step
    run = TracedStep.run
    runs: list[None] = []

    def one_bit(self: TracedStep, args: Any, kwargs: Any, original: Any) -> Any:
        result = run(self, args, kwargs, original)
        runs.append(None)
        if len(runs) == 5 and not isinstance(self, BesideStep):
            bias = self.program.models[0].layers[-1].bias
            bias.assign(np.nextafter(bias.numpy(), np.float32(9)))
        return result

    monkeypatch.setattr(TracedStep, "run", one_bit)
    with pytest.warns(RuntimeWarning, match=r"at step 4 taps in the training step changed"):
        traced = fit(mlp(), tracer(tmp_path / "run.zarr"), rows=128, epochs=1)
    monkeypatch.undo()
    assert state_of(traced) == state_of(fit(mlp(), rows=128, epochs=1))
    found = read_attributes(tmp_path / "run.zarr")
    assert found.capture["gradients"] == "beside"
    (event,) = found.events
    assert event.step == 4
    assert "computed a second time" in event.message


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("known", "times_as_long", "later"),
    [(False, 0, [5, 10]), (True, 0, [5, 10]), (True, 1e9, []), (False, 1e9, [])],
)
def test_a_proof_is_made_again_where_the_training_was_left_alone_for_long_enough(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    known: bool,
    times_as_long: float,
    later: list[int],
) -> None:
    if known:
        fit(mlp(), tracer(tmp_path / "before.zarr"))
        keras.utils.clear_session()
    monkeypatch.setattr(proven_step, "PROOF_STEPS", 5)
    monkeypatch.setattr(proof_times, "TIMES_AS_LONG", times_as_long)
    fit(mlp(), tracer(tmp_path / "run.zarr"), rows=160, epochs=1)
    first = [1] if known else [1, 2]
    found = read_attributes(tmp_path / "run.zarr").proofs
    assert [proof.step + 1 for proof in found] == first + later
    assert all(proof.identical for proof in found)


def test_a_step_that_acts_outside_of_tensorflow_is_not_run_twice(tmp_path: Path) -> None:
    calls: list[int] = []

    class Counting(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            def count(x: Any) -> Any:
                calls.append(1)
                return x

            y = tf.py_function(count, [x], tf.float32)
            y.set_shape(x.shape)
            return x + 0 * tf.stop_gradient(y)

    def model() -> Any:
        keras.utils.set_random_seed(3)
        made = keras.Sequential([keras.Input((3,)), Counting(), keras.layers.Dense(2)])
        made.compile("adam", "mse")
        return made

    plain = fit(model(), rows=32, epochs=1)
    assert len(calls) == 2
    with pytest.warns(RuntimeWarning, match=r"it cannot be shown .*capture='inside'"):
        traced = fit(model(), Tracer(tmp_path / "run.zarr"), rows=32, epochs=1)
    assert len(calls) == 4
    assert state_of(traced) == state_of(plain)
    fit(model(), tracer(tmp_path / "inside.zarr", capture="inside"), rows=32, epochs=1)
    assert len(calls) == 6  # nor by the probe
    found = read_attributes(tmp_path / "inside.zarr")
    assert found.status == "complete"
    assert "EagerPyFunc" in next(m.reason for m in found.missing if m.kind == "probe")


def test_a_step_of_a_loop_is_proved_too(tmp_path: Path) -> None:
    def train(path: Path | None) -> Any:
        model = mlp()
        optimizer = keras.optimizers.Adam(0.01)
        loss = keras.losses.MeanSquaredError()

        @tf.function  # type: ignore[untyped-decorator]
        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                value = loss(y, model(x, training=True))
            gradients = tape.gradient(value, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return value

        x, y = vectors(40)
        recording = tracer(path) if path is not None else None
        run = recording.wrap(step) if recording is not None else step
        for begin in (0, 16, 32):
            run(tf.constant(x[begin : begin + 16]), tf.constant(y[begin : begin + 16]))
        if recording is not None:
            recording.close()
        return model

    traced = train(tmp_path / "run.zarr")
    assert [w.tobytes() for w in weights_of(traced)] == [
        w.tobytes() for w in weights_of(train(None))
    ]
    found = read_attributes(tmp_path / "run.zarr")
    assert found.status == "complete"
    assert [(p.step, p.identical) for p in found.proofs] == [(0, True), (1, True), (2, True)]


def test_an_operation_that_fails_in_the_middle_of_a_step_ends_the_training(tmp_path: Path) -> None:
    x, y = images(40)
    y[37] = 99  # of three classes
    model = cnn()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(), jit_compile=False)
    recording = tracer(tmp_path / "run.zarr", capture="inside")
    with pytest.raises(tf.errors.OpError, match="99"):
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[recording])
    found = read_attributes(tmp_path / "run.zarr")
    assert found.status == "incomplete"
    assert found.steps_recorded["gradients"] == 4


def test_a_step_that_does_not_repeat_itself_has_no_bits_to_keep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Clocked(keras.Sequential):  # type: ignore[misc]
        def train_step(self, data: Any) -> Any:
            logs = super().train_step(data)
            bias = self.layers[-1].bias
            bias.assign_add(1e-3 * tf.cast(tf.timestamp() % 1.0, "float32") * tf.ones_like(bias))
            return logs

    model = Clocked([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    fit(model, tracer(path := tmp_path / "run.zarr"))
    found = read_attributes(path)
    assert found.status == "complete"
    assert set(found.capture.values()) == {"inside"}
    assert [(p.step, p.identical, p.repeats) for p in found.proofs] == [(0, False, False)]
    assert "bias" in str(found.proofs[0].note)
    info(path)
    assert "cannot be shown, since two runs of step 0" in " ".join(capsys.readouterr().out.split())


def test_a_network_that_looks_words_up_is_recorded(tmp_path: Path) -> None:
    def train(*callbacks: Any) -> Any:
        keras.utils.set_random_seed(3)
        words = keras.layers.TextVectorization(20, output_sequence_length=4)
        words.adapt(texts := np.array(["a b c", "b d", "c a a", "d e f"]))
        layers = (words, keras.layers.Embedding(20, 3), keras.layers.Flatten())
        model = keras.Sequential([keras.Input((), dtype="string"), *layers, keras.layers.Dense(1)])
        model.compile("adam", "mse")
        data = tf.data.Dataset.from_tensor_slices((texts, np.arange(4.0))).batch(2)
        model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        return model

    traced = train(tracer(tmp_path / "run.zarr"))
    assert state_of(traced) == state_of(train())
    found = read_attributes(tmp_path / "run.zarr")
    assert found.status == "complete"
    assert [proof.identical for proof in found.proofs] == [True, True]


def test_an_eager_step_cannot_be_recorded_beside(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="runs eagerly"):
        fit(cnn("eager"), tracer(tmp_path / "run.zarr", capture="beside"))


def test_a_network_whose_normalisation_is_fused_is_not_changed(tmp_path: Path) -> None:
    def train(*callbacks: Any) -> Any:
        keras.utils.set_random_seed(0)
        model = keras.applications.MobileNetV2((32, 32, 3), 0.35, weights=None, classes=2)
        model.compile("adam", "sparse_categorical_crossentropy")
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(24, 32, 32, 3)).astype("f4"), rng.integers(0, 2, 24)
        model.fit(x, y, batch_size=4, verbose=0, shuffle=False, callbacks=[*callbacks])
        return model

    traced = train(tracer(tmp_path / "run.zarr"))
    assert state_of(traced) == state_of(train())
    assert read_attributes(tmp_path / "run.zarr").steps_recorded["gradients"] == 6


def _of_holes(path: Path) -> None:
    path.write_text("inside")
    os.truncate(path, 2**43)


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to(path),
        _of_holes,
        lambda path: path.write_bytes(b"\xffinside"),
        lambda path: path.write_text("outside"),
    ],
    ids=["pipe", "device", "folder", "loop", "holes", "no text", "another word"],
)
def test_a_memory_that_is_no_file_of_a_word_says_nothing(cache: Path, make: Any) -> None:
    cache.mkdir(parents=True)
    make(cache / "digest")
    found = ProofMemory(cache).recall("digest")
    assert found is None
