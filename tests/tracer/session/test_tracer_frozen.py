"""What is changed between two fits without ``compile``: Keras does not see it, nor the tracer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from steptrace_tracer.capture.proven_step import Capture

STEPS = 3
"""Steps of one fit."""

Which = Literal["both", "first", "second", "one each", "other policy"]
"""Which of two fits are traced: both into one trace, or each into its own, or only one."""


def tracers(path: Path, which: Which, capture: Capture) -> list[list[Any]]:
    """Return the callbacks of both fits."""

    def tracer(name: str, **fields: Any) -> Any:
        return Tracer(
            path / name, capture=capture, on_error="raise", progress=False, samples=8, **fields
        )

    one = tracer("run.zarr")
    first, second = {
        "both": (one, one),
        "first": (one, None),
        "second": (None, one),
        "one each": (tracer("first.zarr"), one),
        "other policy": (tracer("first.zarr", kinds=("weights",)), one),
    }[which]
    return [[callback] if callback else [] for callback in (first, second)]


def fit_twice(model: Any, change: Callable[[Any], None], callbacks: list[list[Any]]) -> Any:
    """Train, change the model, and train again without another ``compile``."""
    x, y = vectors(STEPS * 8)
    settings: dict[str, Any] = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model.fit(x, y, callbacks=callbacks[0], **settings)
    change(model)
    model.fit(x, y, callbacks=callbacks[1], **settings)
    return model


class Penalised(keras.Sequential):  # type: ignore[misc]
    """Adds a multiple of the mean square of the output to the loss."""

    factor = 0.0

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            out = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=out) + self.factor * tf.reduce_mean(out**2)
        weights = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


def penalised() -> Any:
    keras.utils.set_random_seed(7)
    layers = [keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)]
    model = Penalised(layers, name="mlp")
    model.factor = 0.0
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def freeze_first(model: Any) -> None:
    model.layers[0].trainable = False


def raise_factor(model: Any) -> None:
    model.factor = 5.0


def replace_step(model: Any) -> None:
    model.train_step = lambda data: {"loss": tf.constant(0.0)}


def run_eagerly(model: Any) -> None:
    model.run_eagerly = True
    model.layers[0].trainable = False


def clip(model: Any) -> None:
    model.optimizer.clipvalue = 1e-6


CHANGES: tuple[tuple[str, Callable[[], Any], Callable[[Any], None]], ...] = (
    ("trainable", mlp, freeze_first),
    ("an attribute", penalised, raise_factor),
    ("train_step", mlp, replace_step),
    ("run_eagerly", mlp, run_eagerly),
    ("the optimizer's clipping", mlp, clip),
)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("name", "build", "change"), CHANGES, ids=[name for name, *_ in CHANGES])
def test_a_change_without_compile_has_no_effect_with_the_tracer_either(
    tmp_path: Path, name: str, build: Callable[[], Any], change: Callable[[Any], None]
) -> None:
    assert_frozen(tmp_path, build, change, "both", "auto")


WAYS: tuple[tuple[Which, Capture], ...] = (
    ("both", "inside"),
    ("first", "inside"),
    ("one each", "auto"),
    ("other policy", "inside"),
)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("which", "capture"), WAYS, ids=[f"{w}, {c}" for w, c in WAYS])
@pytest.mark.parametrize(("name", "build", "change"), CHANGES[:2], ids=["trainable", "attribute"])
def test_a_change_has_no_effect_whichever_fit_is_traced(
    tmp_path: Path,
    name: str,
    build: Callable[[], Any],
    change: Callable[[Any], None],
    which: Which,
    capture: Capture,
) -> None:
    assert_frozen(tmp_path, build, change, which, capture)


def assert_frozen(
    tmp_path: Path,
    build: Callable[[], Any],
    change: Callable[[Any], None],
    which: Which,
    capture: Capture,
) -> None:
    """Compare two fits with and without the tracer, and the recorded gradients with the updates."""
    plain = weights_of(fit_twice(build(), change, [[], []]))
    unchanged = weights_of(fit_twice(build(), lambda _: None, [[], []]))
    traced = weights_of(fit_twice(build(), change, tracers(tmp_path, which, capture)))
    for expected, same, found in zip(plain, unchanged, traced, strict=True):
        assert expected.tobytes() == same.tobytes(), "Keras itself takes the change up"
        assert found.tobytes() == expected.tobytes()
    path = tmp_path / "run.zarr"
    assert validate(path) == []
    group = zarr.open_group(path, mode="r")
    gradients = np.asarray(group["gradients/mlp/hidden/kernel"])
    expected_gradients = gradients_by_updates(group)
    assert len(gradients) == (2 * STEPS if which == "both" else STEPS)
    np.testing.assert_allclose(gradients, expected_gradients, rtol=1e-4, atol=1e-6)


def gradients_by_updates(group: zarr.Group) -> npt.NDArray[Any]:
    """Return what plain gradient descent at rate 0.1 must have subtracted."""
    weights = np.asarray(group["weights/mlp/hidden/kernel"]).astype(np.float64)
    return (weights[:-1] - weights[1:]) / 0.1


@pytest.mark.parametrize("capture", ["auto", "inside"])
def test_a_change_with_compile_has_its_effect(tmp_path: Path, capture: Capture) -> None:
    def change(model: Any) -> None:
        model.factor = 5.0
        model.compile(keras.optimizers.SGD(0.1), "mse")

    plain = weights_of(fit_twice(penalised(), change, [[], []]))
    unchanged = weights_of(fit_twice(penalised(), lambda _: None, [[], []]))
    traced = weights_of(fit_twice(penalised(), change, tracers(tmp_path, "both", capture)))
    assert plain[0].tobytes() != unchanged[0].tobytes()
    for expected, found in zip(plain, traced, strict=True):
        assert found.tobytes() == expected.tobytes()
