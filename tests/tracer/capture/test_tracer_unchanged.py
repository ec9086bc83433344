"""The tracer does not change the training, and leaves nothing behind."""

from __future__ import annotations

import pickle
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr

from keras_models import MODES, Mode, cnn, images, mlp, vectors, weights_of
from steptrace_schema.errors import TraceError, TraceExistsError
from steptrace_schema.store.opening import read_attributes
from steptrace_tracer import Policy, Tracer, plan

if TYPE_CHECKING:
    from pathlib import Path

    from steptrace_schema.names import Kind


def fit(model: Any, callbacks: list[Any], epochs: int = 2) -> Any:
    x, y = images() if model.name == "cnn" else vectors(40)
    model.fit(x, y, batch_size=16, epochs=epochs, verbose=0, callbacks=callbacks)
    return model


def assert_identical(a: Any, b: Any) -> None:
    for left, right in zip(weights_of(a), weights_of(b), strict=True):
        assert left.tobytes() == right.tobytes()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("mode", "every"), [*((mode, 1) for mode in MODES), ("compiled", 3)])
def test_weights_are_bit_identical_with_and_without_the_tracer(
    tmp_path: Path, mode: Mode, every: int
) -> None:
    traced = fit(cnn(mode), [Tracer(tmp_path / "run.zarr", every=every, on_error="raise")])
    assert_identical(fit(cnn(mode), []), traced)


class Copying(keras.optimizers.SGD):  # type: ignore[misc]
    """Assigns to its slots when it is built, as Keras' ``ScheduleFreeAdamW`` does."""

    def build(self, variables: Any) -> None:
        if not self.built:
            super().build(variables)
            for slot, variable in zip(self.momentums, variables, strict=True):
                self.assign(slot, variable)


@pytest.mark.parametrize("model_is_built", [True, False])
@pytest.mark.parametrize("kinds", [("optimizer",), ("weights",)])
@pytest.mark.parametrize("mode", ["compiled", "eager"])
@pytest.mark.parametrize("way", ["fit", "train_on_batch", "plan"])
@pytest.mark.sampled(6)
def test_an_optimizer_starts_with_the_slots_that_the_step_would_give_it(
    tmp_path: Path, way: str, mode: Mode, kinds: tuple[Kind, ...], model_is_built: bool
) -> None:
    # In a compiled step TensorFlow runs nothing of `build` but making variables.
    def trained(traced: bool) -> Any:
        keras.utils.set_random_seed(3)
        inputs = [keras.Input((3,))] if model_is_built else []
        model = keras.Sequential([*inputs, keras.layers.Dense(2, name="out")], name="mlp")
        model.compile(Copying(0.1, momentum=0.9), "mse", run_eagerly=mode == "eager")
        path, (x, y) = tmp_path / "run.zarr", vectors(32)
        tracer = Tracer(path, kinds=kinds, on_error="raise", progress=False)
        if way == "train_on_batch":
            step = tracer.wrap(model.train_on_batch) if traced else model.train_on_batch
            for _ in range(4):
                step(x[:8], y[:8])
            tracer.close()
            return model
        if way == "plan" and traced:
            plan(model, (x[:8], y[:8]), steps=10, policy=tracer.policy)
        callbacks = [tracer] if way == "fit" and traced else []
        model.fit(x, y, batch_size=8, verbose=0, shuffle=False, callbacks=callbacks)
        return model

    plain, traced = trained(False), trained(True)
    assert_identical(plain, traced)
    for one, other in zip(plain.optimizer.variables, traced.optimizer.variables, strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes()
    if kinds == ("optimizer",) and way == "fit":
        group: Any = zarr.open_group(tmp_path / "run.zarr", mode="r")
        slots = dict(group["optimizer"].members(max_depth=None))
        (slot,) = (np.asarray(a)[0] for path, a in slots.items() if "kernel/momentum" in path)
        assert bool(slot.any()) == (mode == "eager")


class Lookahead(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Builds itself and an inner optimizer in its own ``apply``, outside of the scope of Keras."""

    def __init__(self, inner: Any) -> None:
        super().__init__(learning_rate=0.01)
        self.inner = inner

    def build(self, variables: Any) -> None:
        if self.built:
            return
        super().build(variables)
        self.inner.build(variables)
        self.slow = [self.add_variable_from_reference(v, "slow") for v in variables]
        for slow, variable in zip(self.slow, variables, strict=True):
            slow.assign(variable)

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        self.build(trainable_variables)
        self.inner.apply(grads, trainable_variables)
        self.iterations.assign_add(1)
        for slow, variable in zip(self.slow, trainable_variables, strict=True):
            slow.assign(slow + 0.5 * (variable - slow))


class Scoped(Lookahead):
    """Builds itself in a scope of its own."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        with keras.name_scope("outer"):
            self.build(trainable_variables)
        super().apply(grads, trainable_variables)


class Inner(Lookahead):
    """Is never built, and leaves all to the optimizer in it."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        self.inner.apply_gradients(zip(grads, trainable_variables, strict=True))
        self.iterations.assign_add(1)


class Centred(keras.optimizers.Adam):  # type: ignore[misc]
    """Changes the gradients, and has Keras do the rest."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        super().apply([grad - tf.reduce_mean(grad) for grad in grads], trainable_variables)


@pytest.mark.parametrize("mode", ["compiled", "eager"])
@pytest.mark.parametrize("way", ["fit", "plan"])
@pytest.mark.parametrize("kind", [Lookahead, Scoped, Inner, Centred])
def test_slots_have_the_paths_that_the_step_would_give_them(
    tmp_path: Path, kind: Any, way: str, mode: Mode
) -> None:
    def trained(traced: bool) -> tuple[list[Any], Any]:
        keras.backend.clear_session()
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="out")], name="mlp")
        optimizer = kind(0.01 if kind is Centred else keras.optimizers.Adam(0.01))
        model.compile(optimizer, "mse", run_eagerly=mode == "eager")
        x, y = vectors(32)
        tracer = Tracer(tmp_path / "run.zarr", on_error="raise", progress=False)
        if way == "plan" and traced:
            refused = kind in (Scoped, Inner)
            with pytest.raises(TraceError, match="by its first") if refused else nullcontext():
                plan(model, (x[:8], y[:8]), steps=10, policy=tracer.policy)
        callbacks = [tracer] if way == "fit" and traced else []
        model.fit(x, y, batch_size=8, verbose=0, shuffle=False, callbacks=callbacks)
        inner = getattr(optimizer, "inner", None)
        slots = optimizer.variables if inner is None else [*optimizer.variables, *inner.variables]
        return [(variable.path, variable.numpy().tobytes()) for variable in slots], model

    (plain, model), (recorded, traced) = trained(False), trained(True)
    assert [path for path, _ in recorded] == [path for path, _ in plain]
    assert recorded == plain
    assert_identical(model, traced)


def test_random_operations_draw_the_same_numbers_where_recording_begins_later(
    tmp_path: Path,
) -> None:
    def noisy() -> Any:
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Lambda(lambda x: x + tf.random.normal(tf.shape(x))),
                keras.layers.Dense(2),
            ]
        )
        model.compile("sgd", "mse")
        return model

    plain = fit(noisy(), [])
    windows = ((2, 3), (4, 5))
    tracer = Tracer(tmp_path / "run.zarr", windows=windows, on_error="raise", progress=False)
    traced = fit(noisy(), [tracer])
    assert_identical(plain, traced)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras
def test_nothing_stays_patched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing is remembered, so that the proof has Keras compile its own function.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    enter, gradient = tf.GradientTape.__enter__, tf.GradientTape.gradient

    class Look(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            assert tf.GradientTape.gradient is gradient
            assert tf.GradientTape.__enter__ is enter
            for layer in (self.model, *self.model.layers):
                assert "call" not in vars(layer)
            self.model.save(tmp_path / "model.keras")

    model = cnn()
    before = [getattr(layer, "activation", None) for layer in model.layers]
    fit(model, [Tracer(tmp_path / "run.zarr", on_error="raise"), Look()])
    assert [getattr(layer, "activation", None) for layer in model.layers] == before
    assert type(model.train_function).__name__ == "function"
    assert model.train_function.__module__.startswith("keras")
    assert_identical(keras.models.load_model(tmp_path / "model.keras"), model)
    keras.models.clone_model(model)
    assert_identical(pickle.loads(pickle.dumps(model)), model)


def test_a_later_fit_without_tracer_runs_as_if_there_had_been_none(tmp_path: Path) -> None:
    plain, traced = mlp(), mlp()
    fit(fit(plain, []), [])
    fit(fit(traced, [Tracer(tmp_path / "run.zarr")]), [])
    assert_identical(plain, traced)


def test_the_step_is_traced_once_for_each_signature(tmp_path: Path) -> None:
    tracer = Tracer(tmp_path / "run.zarr", on_error="raise")

    class Count(keras.callbacks.Callback):  # type: ignore[misc]
        traces = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            assert tracer._session is not None
            assert tracer._session.traced is not None
            Count.traces = tracer._session.traced.traces

    x, y = images(42)  # the last batch is smaller
    cnn().fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=[tracer, Count()])
    # TensorFlow traces a function that creates variables a second time, without creating them.
    assert Count.traces == 2


def test_a_failing_tracer_lets_the_training_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steptrace_schema.journal.writer import JournalWriter

    append, calls = JournalWriter.append, []

    def full(self: JournalWriter, step: int, arrays: Any) -> int:
        calls.append(step)
        if step == 3:
            raise OSError(28, "No space left on device")
        return append(self, step, arrays)

    monkeypatch.setattr(JournalWriter, "append", full)
    traced = mlp()
    with pytest.warns(RuntimeWarning, match=r"No space left on device.*training continues"):
        fit(traced, [Tracer(tmp_path / "run.zarr")], epochs=6)
    assert_identical(fit(mlp(), [], epochs=6), traced)
    found = read_attributes(tmp_path / "run.zarr")
    assert found.status == "incomplete"
    assert "No space left on device" in str(found.status_reason)
    assert found.steps_recorded["gradients"] == 3


def test_a_failure_while_tapping_lets_the_training_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("tap")  # noqa: EM101

    monkeypatch.setattr("steptrace_tracer.capture.tap_collector.TapCollector.keep_output", broken)
    traced = mlp()
    with pytest.warns(RuntimeWarning, match="RuntimeError: tap"):
        fit(traced, [Tracer(tmp_path / "run.zarr")])
    assert_identical(fit(mlp(), []), traced)


def test_on_error_raise_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("tap")  # noqa: EM101

    monkeypatch.setattr("steptrace_tracer.capture.tap_collector.TapCollector.keep_output", broken)
    with pytest.raises(TraceError, match="tap"):
        fit(mlp(), [Tracer(tmp_path / "run.zarr", on_error="raise")])


def test_an_error_of_the_model_is_raised_as_it_is(tmp_path: Path) -> None:
    model = mlp()
    x, y = vectors()
    with pytest.raises(ValueError, match=r"shape|dimension"):
        model.fit(x, y[:, :1].repeat(5, 1), verbose=0, callbacks=[Tracer(tmp_path / "run.zarr")])


def test_an_existing_trace_is_refused_before_the_training_begins(tmp_path: Path) -> None:
    fit(mlp(), [Tracer(tmp_path / "run.zarr")])
    model = mlp()
    before = weights_of(model)
    with pytest.raises(TraceExistsError, match="overwrite=True"):
        fit(model, [Tracer(tmp_path / "run.zarr")])
    assert all((a == b).all() for a, b in zip(before, weights_of(model), strict=True))
    first = read_attributes(tmp_path / "run.zarr").run_id
    fit(model, [Tracer(tmp_path / "run.zarr", overwrite=True)])
    assert read_attributes(tmp_path / "run.zarr").run_id != first


def test_an_interrupted_fit_is_closed_with_the_reason_when_the_next_one_runs(
    tmp_path: Path,
) -> None:
    class Stop(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 1:
                raise KeyboardInterrupt

    model = mlp()
    with pytest.raises(KeyboardInterrupt):
        fit(model, [Tracer(tmp_path / "run.zarr"), Stop()])
    fit(model, [])
    found = read_attributes(tmp_path / "run.zarr")
    assert found.status == "incomplete"
    assert found.steps_recorded["gradients"] == 2


def test_policy_or_fields_but_not_both(tmp_path: Path) -> None:
    assert Tracer(tmp_path / "a.zarr", every=3).policy == Policy(every=3)
    with pytest.raises(TypeError, match="not both"):
        Tracer(tmp_path / "a.zarr", Policy(), every=3)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Tracer(tmp_path / "a.zarr", every=0)
    with pytest.raises(ValueError, match="'warn' or 'raise'"):
        Tracer(tmp_path / "a.zarr", on_error="ignore")  # type: ignore[arg-type]


def test_no_warning_is_given_for_a_run_that_goes_well(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(mlp(), [Tracer(tmp_path / "run.zarr")])
    assert read_attributes(tmp_path / "run.zarr").status == "complete"
