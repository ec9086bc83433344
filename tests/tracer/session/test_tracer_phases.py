"""The trace says of each fit how it trained: optimizers, loss, rate and trainable weights."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr
from keras import layers, ops

from keras_models import mlp, vectors, weights_of
from steptrace_analyzer import diagnose
from steptrace_analyzer.cli.app import run
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path

OUT = ("mlp/out/kernel", "mlp/out/bias")
HIDDEN = ("mlp/hidden/kernel", "mlp/hidden/bias")


def fine_tune(callbacks: list[Any]) -> Any:
    """Train the last layer, then all of them with another optimizer and loss, then go on."""
    model, (x, y) = mlp(), vectors(16)
    settings: dict[str, Any] = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model.get_layer("hidden").trainable = False
    model.compile(keras.optimizers.Adam(0.01, name="first"), "mse")
    model.fit(x, y, callbacks=callbacks, **settings)
    model.get_layer("hidden").trainable = True
    model.compile(keras.optimizers.SGD(0.1, name="second"), "mae")
    model.fit(x, y, callbacks=callbacks, **settings)
    model.get_layer("hidden").trainable = False  # without compile, of which Keras takes no notice
    model.fit(x, y, callbacks=callbacks, **settings)
    model.optimizer.learning_rate = 0.05
    model.fit(x, y, callbacks=callbacks, **settings)
    return model


def test_each_fit_is_described_as_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.zarr"
    plain = fine_tune([])
    tracer = Tracer(path, on_error="raise", progress=False)
    model = fine_tune([tracer])
    tracer.close()
    for one, other in zip(weights_of(plain), weights_of(model), strict=True):
        assert one.tobytes() == other.tobytes()
    assert validate(path) == []
    phases = read_attributes(path).phases
    assert [
        (p.step, p.loss, [(o.class_name, o.name, o.used) for o in p.optimizers], p.trainable)
        for p in phases
    ] == [
        (0, "mse", [("Adam", "first", True)], OUT),
        (2, "mae", [("SGD", "second", True)], HIDDEN + OUT),
        # The third fit, from step 4 on, does not differ.
        (6, "mae", [("SGD", "second", True)], HIDDEN + OUT),
    ]
    rates = [phase.optimizers[0].learning_rate for phase in phases]
    assert rates == pytest.approx([0.01, 0.1, 0.05])
    group: Any = zarr.open_group(path, mode="r")
    np.testing.assert_allclose(
        np.asarray(group["scalars/learning_rate"]), np.repeat([0.01, 0.1, 0.1, 0.05], 2), rtol=1e-6
    )
    kernel = np.asarray(group["weights/mlp/hidden/kernel"])
    still = [bool((a == b).all()) for a, b in itertools.pairwise(kernel)]
    assert still == [True] * 2 + [False] * 6
    (frozen,) = (found for found in diagnose(path).findings if found.rule == "frozen")
    assert (frozen.first_step, frozen.last_step) == (0, 1)
    assert "mlp/hidden" in frozen.explanation
    capsys.readouterr()
    assert run(["info", str(path)]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("phase")]
    assert shown == [
        "phase     from step 0: Adam 'first' at 0.01; loss mse; 2 of 4 weights trained",
        "phase     from step 2: SGD 'second' at 0.1; loss mae; 4 of 4 weights trained",
        "phase     from step 6: SGD 'second' at 0.05; loss mae; 4 of 4 weights trained",
    ]


def test_losses_of_several_outputs_are_called_by_their_names(tmp_path: Path) -> None:
    path, x = tmp_path / "run.zarr", keras.Input((3,))
    model = keras.Model(x, {name: layers.Dense(2, name=name)(x) for name in ("a", "b")})
    losses = keras.losses
    model.compile("sgd", {"a": losses.Huber(0.5, name="mine"), "b": "mse"})
    data, y = vectors(8)
    settings: dict[str, Any] = {"batch_size": 8, "verbose": 0}
    tracer = Tracer(path, on_error="raise", progress=False)
    model.fit(data, {"a": y, "b": y}, callbacks=[tracer], **settings)
    model.compile("sgd", {"a": "mae", "b": losses.mean_squared_error})
    model.fit(data, {"a": y, "b": y}, callbacks=[tracer], **settings)
    tracer.close()
    names = [phase.loss for phase in read_attributes(path).phases]
    assert names == ["{'a': 'mine', 'b': 'mse'}", "{'a': 'mae', 'b': 'mean_squared_error'}"]
    assert read_attributes(path).loss == names[-1]


class Gan(keras.Model):  # type: ignore[misc]
    """Two networks with an optimizer each; the one that Keras gives the model is not used."""

    def __init__(self) -> None:
        super().__init__(name="gan")
        self.maker = keras.Sequential([keras.Input((2,)), layers.Dense(3, name="m")], name="maker")
        self.judge = keras.Sequential([keras.Input((3,)), layers.Dense(1, name="j")], name="judge")
        self.built = True
        super().compile()
        self.of_judge = keras.optimizers.Adam(0.01, name="of_judge")
        self.of_maker = keras.optimizers.SGD(0.02, name="of_maker")

    def train_step(self, data: Any) -> dict[str, Any]:
        noise = ops.full((8, 2), 0.3)
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.softplus(self.judge(self.maker(noise))) - self.judge(data))
        own = self.judge.trainable_weights
        self.of_judge.apply_gradients(zip(tape.gradient(loss, own), own, strict=True))
        with tf.GradientTape() as tape:
            other = ops.mean(ops.softplus(-self.judge(self.maker(noise))))
        own = self.maker.trainable_weights
        self.of_maker.apply_gradients(zip(tape.gradient(other, own), own, strict=True))
        return {"loss": loss, "other": other}


def test_all_optimizers_of_a_model_are_named_and_the_unused_one_is_not_the_main(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run.zarr"

    def train(callbacks: list[Any]) -> Any:
        keras.utils.set_random_seed(5)
        model, (x, _) = Gan(), vectors(16)
        model.fit(x, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
        return model

    plain = train([])
    model = train([Tracer(path, on_error="raise", progress=False)])
    for one, other in zip(weights_of(plain), weights_of(model), strict=True):
        assert one.tobytes() == other.tobytes()
    assert validate(path) == []
    attributes = read_attributes(path)
    assert attributes.optimizer is not None
    assert attributes.optimizer.class_name == "Adam"
    (phase,) = attributes.phases
    (unused, judge, maker) = phase.optimizers
    assert (unused.class_name, unused.used) == ("RMSprop", False)
    assert (judge.name, judge.class_name, judge.used) == ("of_judge", "Adam", True)
    assert (maker.name, maker.class_name, maker.used) == ("of_maker", "SGD", True)
    assert maker.learning_rate == pytest.approx(0.02)
    group: Any = zarr.open_group(path, mode="r")
    assert np.asarray(group["scalars/learning_rate"]) == pytest.approx(0.01)
    assert np.asarray(group["scalars/learning_rates/of_maker"]) == pytest.approx(0.02)


def test_losses_and_settings_are_named_alike_in_each_run(tmp_path: Path) -> None:
    said = []
    for number in range(2):

        def rate() -> float:
            return 0.1

        def own_loss(y: Any, found: Any) -> Any:
            return ops.mean(ops.abs(y - found), -1)

        x = keras.Input((3,))
        outputs = {name: layers.Dense(2, name=name)(x) for name in ("first", "second", "third")}
        model = keras.Model(x, outputs)
        losses = {"first": keras.losses.Huber(), "second": own_loss, "third": "mse"}
        model.compile(keras.optimizers.SGD(rate, name="sgd"), losses)
        path, (values, y) = tmp_path / f"{number}.zarr", vectors(8)
        tracer = Tracer(path, on_error="raise", progress=False)
        model.fit(values, dict.fromkeys(losses, y), verbose=0, callbacks=[tracer])
        attributes = read_attributes(path)
        assert attributes.loss == "{'first': 'huber_loss', 'second': 'own_loss', 'third': 'mse'}"
        assert attributes.phases[0].loss == attributes.loss
        assert attributes.optimizer is not None
        said.append(attributes.optimizer.config)
    assert " at 0x" not in str(said)
    assert said[0] == said[1]
