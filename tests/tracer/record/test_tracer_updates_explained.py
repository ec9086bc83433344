"""Updates that Keras made, against the formulas of its optimizers in NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest

from steptrace_analyzer import diagnose, explain_update, open_trace
from steptrace_analyzer.anomalies.optimizer.replay import Replay
from steptrace_analyzer.anomalies.signals import Signals
from steptrace_analyzer.trace.select import get_tensor
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import xarray as xr

STEPS, BATCH, CHANGED = 40, 16, 25

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: keras.optimizers.SGD(0.05),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "nesterov": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "sgd_decay": lambda: keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=0.01),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.003),
    "rmsprop_centered": lambda: keras.optimizers.RMSprop(0.003, momentum=0.5, centered=True),
    "adagrad": lambda: keras.optimizers.Adagrad(0.05),
    "adadelta": lambda: keras.optimizers.Adadelta(1.0),
    "adam": lambda: keras.optimizers.Adam(0.003),
    "amsgrad": lambda: keras.optimizers.Adam(0.003, amsgrad=True),
    "adamw": lambda: keras.optimizers.AdamW(0.003, weight_decay=0.02),
    "adamax": lambda: keras.optimizers.Adamax(0.003),
    "nadam": lambda: keras.optimizers.Nadam(0.003),
    "lion": lambda: keras.optimizers.Lion(0.001),
    "ftrl": lambda: keras.optimizers.Ftrl(0.05, l1_regularization_strength=0.001),
    "ftrl_shrunk": lambda: keras.optimizers.Ftrl(
        0.05, l2_regularization_strength=0.01, l2_shrinkage_regularization_strength=0.01, beta=0.1
    ),
    "clipnorm": lambda: keras.optimizers.Adam(0.003, clipnorm=0.1),
    "clipvalue": lambda: keras.optimizers.Adam(0.003, clipvalue=0.01),
    "global_clipnorm": lambda: keras.optimizers.SGD(0.05, momentum=0.9, global_clipnorm=0.3),
    "accumulation": lambda: keras.optimizers.Adam(0.003, gradient_accumulation_steps=4),
    "average": lambda: keras.optimizers.Adam(
        0.003, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=10
    ),
    "average_accumulated": lambda: keras.optimizers.Adam(
        0.003,
        gradient_accumulation_steps=2,
        use_ema=True,
        ema_momentum=0.9,
        ema_overwrite_frequency=5,
    ),
    "average_clipped": lambda: keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(1e-2, 100),
        clipnorm=0.1,
        use_ema=True,
        ema_overwrite_frequency=13,
    ),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.003)),
    "schedule": lambda: keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(1e-4, 60, warmup_target=3e-3, warmup_steps=10)
    ),
}


class _ChangeOneWeight(keras.callbacks.Callback):  # type: ignore[misc]
    """Makes the largest weight of a layer larger by a hundredth, between two steps."""

    element: tuple[int, ...] = ()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch == CHANGED:
            kernel = self.model.get_layer("hidden").kernel
            values = kernel.numpy().copy()
            place = np.unravel_index(int(np.argmax(np.abs(values))), values.shape)
            self.element = tuple(int(i) for i in place)
            values[self.element] *= np.float32(1.01)
            kernel.assign(values)


def _train(path: Path, optimizer: Any, *callbacks: Any, **options: Any) -> xr.DataTree:
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(STEPS * BATCH, 6)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int32) + (x[:, 2] > 1)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(12, "relu", name="hidden"),
            keras.layers.Dense(3, "softmax", name="out"),
        ],
        name="mlp",
    )
    model.compile(optimizer, "sparse_categorical_crossentropy")
    tracer = Tracer(path, **options)
    model.fit(x, y, BATCH, shuffle=False, verbose=0, callbacks=[*callbacks, tracer])
    return open_trace(path)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_of_keras_are_explained_within_the_stated_bound(name: str, tmp_path: Path) -> None:
    trace = _train(tmp_path / "run.zarr", OPTIMIZERS[name]())
    signals = Signals(trace)
    assert len(signals.paths("gradients")) == 4
    for path in signals.paths("gradients"):
        found = list(Replay(signals, path).run())
        assert [each.step for each in found] == list(range(STEPS))
        assert [each.step for each in found if each.beyond.any()] == []
        moved = [each for each in found if not each.skipped]
        assert len(moved) >= STEPS // 4
        for each in moved:
            assert np.linalg.norm(each.recorded) > 0
            np.testing.assert_allclose(each.explained, each.recorded, rtol=2e-3, atol=1e-6)
    assert diagnose(trace, rules=["outside"]).findings == ()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_weight_that_is_changed_by_a_hundredth_is_seen(name: str, tmp_path: Path) -> None:
    change = _ChangeOneWeight()
    trace = _train(tmp_path / "run.zarr", OPTIMIZERS[name](), change)
    (found,) = diagnose(trace, rules=["outside"]).findings
    assert (found.first_step, found.tensor) == (CHANGED - 1, "updates/mlp/hidden/kernel")
    assert found.evidence["elements"] == 1
    assert tuple(found.evidence["element"]) == change.element
    before = get_tensor(trace, "weights", "mlp/hidden/kernel").sel(step=CHANGED - 1).values
    assert found.observed == pytest.approx(abs(before[change.element]) * 0.01, rel=0.2)
    explained = explain_update(trace, CHANGED - 1, "hidden/kernel")
    assert explained.explained is False
    assert "1 element changed outside the optimizer" in explained.explain()
    assert explain_update(trace, CHANGED - 2, "hidden/kernel").explained is True


def test_averages_that_the_optimizer_puts_in_place_are_no_fault(tmp_path: Path) -> None:
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=12)
    found = diagnose(_train(tmp_path / "run.zarr", optimizer), rules=["outside", "update_jump"])
    steps = {each.first_step for each in found.findings}
    assert steps
    assert steps <= {11, 23, 35}
    for each in found.findings:
        assert (each.severity, each.cause_kind) == ("info", "set-up")
        assert "ema_overwrite_frequency" in each.cause


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["momentum", "rmsprop_centered", "adadelta", "amsgrad", "nadam"])
def test_one_update_is_explained_from_the_slots_that_are_recorded(
    name: str, tmp_path: Path
) -> None:
    kinds = ("weights", "gradients", "optimizer")
    trace = _train(tmp_path / "run.zarr", OPTIMIZERS[name](), kinds=kinds)
    whole = explain_update(trace, 30, "hidden/kernel")
    late = trace.copy()
    late["gradients"] = late["gradients"].isel(step=slice(30, None))
    from_slots = explain_update(late, 30, "hidden/kernel")
    assert whole.explained is True
    assert from_slots.explained is True
    assert from_slots.predicted == pytest.approx(whole.predicted, rel=1e-5)
    assert from_slots.recorded == pytest.approx(
        float(np.linalg.norm(get_tensor(trace, "updates", "hidden/kernel").sel(step=30))), rel=1e-6
    )


def test_what_cannot_be_said_has_a_reason(tmp_path: Path) -> None:
    trace = _train(tmp_path / "run.zarr", keras.optimizers.Adam(0.003))
    late = trace.copy()
    late["gradients"] = late["gradients"].isel(step=slice(10, None))
    assert explain_update(late, 20, "hidden/kernel").reason == (
        "the trace does not begin with the first step"
    )
    late = trace.copy()
    late.attrs["steptrace"]["optimizer"]["class_name"] = "Muon"
    assert (
        explain_update(late, 20, "hidden/kernel").reason
        == "no formula is known of the optimizer Muon"
    )
