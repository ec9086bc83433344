"""Ways to train by ``fit``, each with the formula of its loss and of its update."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

RATE = 0.25
"""A power of two: the product with a gradient is exact."""
ROWS, BATCH = 20, 8
STEPS = 3
"""The last batch is smaller."""

Arrays = dict[str, "npt.NDArray[Any]"]


def squared_error(y: Any, output: Any) -> Any:
    """Return the mean squared error of each sample."""
    return tf.reduce_mean(tf.square(tf.cast(output, tf.float32) - y), axis=-1)


def one_loss(outputs: list[Any], y: Any, weight: Any) -> Any:
    """Return the loss of a model with one output: the mean over the batch."""
    return tf.reduce_mean(squared_error(y, outputs[0]) * weight)


def descent(weights: Arrays, gradients: Arrays, step: int) -> Arrays:
    """Return the weights after `step` of gradient descent."""
    return {
        path: weights[path] - np.float32(RATE) * gradients[path]
        for path in weights
        if path in gradients
    }


@dataclasses.dataclass(frozen=True)
class Style:
    """One way to train.

    Attributes
    ----------
    name
        As in the matrix of ``docs/capture.md``.
    build
        Returns the same compiled model each time.
    x, y
        Data of all steps, in order; structures of arrays.
    fit
        More arguments of ``fit``.
    weight
        Weight of each sample in the loss.
    loss
        Loss from the outputs, the targets and the weights of a batch.
    updated
        Weights after a step, for those that the formula says something about; None for none.
    """

    name: str
    build: Callable[[], Any]
    x: Any
    y: Any
    fit: dict[str, Any] = dataclasses.field(default_factory=dict)
    weight: npt.NDArray[Any] = dataclasses.field(
        default_factory=lambda: np.ones(ROWS, dtype=np.float32)
    )
    loss: Callable[[list[Any], Any, Any], Any] = one_loss
    updated: Callable[[Arrays, Arrays, int], Arrays] | None = descent


RNG = np.random.default_rng(0)


def _draw(*shape: int) -> npt.NDArray[Any]:
    return RNG.normal(size=(ROWS, *shape)).astype(np.float32)


X, Y = _draw(3), _draw(2)
SEQUENCES = _draw(4, 3)
SECOND_X, SECOND_Y = _draw(2), _draw(1)
SAMPLE_WEIGHT = RNG.uniform(0.25, 2, ROWS).astype(np.float32)
CLASSES = RNG.integers(0, 3, ROWS)
CLASS_WEIGHT = {0: 0.5, 1: 2.0, 2: 1.0}


def _sequential(*between: Any, optimizer: Any = None, x: Any = X, **compiling: Any) -> Any:
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            *between,
            layers.Dense(4, activation="tanh", name="hidden"),
            layers.Dense(2, name="out"),
        ],
        name="net",
    )
    model.compile(optimizer or keras.optimizers.SGD(RATE), "mse", **compiling)
    return model


def _several_inputs_and_outputs() -> Any:
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    joined = layers.Concatenate(name="joined")([a, b])
    hidden = layers.Dense(4, activation="tanh", name="hidden")(joined)
    left = layers.Dense(2, name="left")(hidden)
    right = layers.Dense(1, activation="sigmoid", name="right")(hidden)
    model = keras.Model({"a": a, "b": b}, {"left": left, "right": right}, name="net")
    model.compile(
        keras.optimizers.SGD(RATE),
        {"left": "mse", "right": "mse"},
        loss_weights={"left": 1.0, "right": 0.5},
    )
    return model


def _several_losses(outputs: list[Any], y: Any, weight: Any) -> Any:
    left, right = (
        one_loss([output], y[name], weight)
        for name, output in zip(("left", "right"), outputs, strict=True)
    )
    return left + 0.5 * right


def _models_in_models() -> Any:
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(5, "tanh", name="deep")], name="in")
    middle_input = keras.Input((3,))
    middle = keras.Model(middle_input, layers.Dense(4, name="mid")(inner(middle_input)), name="mi")
    x = keras.Input((3,))
    model = keras.Model(x, layers.Dense(2, name="out")(middle(x)), name="net")
    model.compile(keras.optimizers.SGD(RATE), "mse")
    return model


def _attention() -> Any:
    x = keras.Input((4, 3))
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    attended = attention(x, x)
    summed = layers.LayerNormalization(name="norm")(layers.Add(name="sum")([x, attended]))
    hidden = layers.Dense(6, activation="gelu", name="hidden")(summed)
    pooled = layers.GlobalAveragePooling1D(name="pool")(hidden)
    model = keras.Model(x, layers.Dense(2, name="out")(pooled), name="net")
    model.compile(keras.optimizers.SGD(RATE), "mse")
    return model


def _bfloat16() -> Any:
    return _sequential(layers.Dense(4, activation="relu", dtype="mixed_bfloat16", name="low"))


def _frozen() -> Any:
    return _sequential(layers.Dense(4, activation="relu", name="frozen", trainable=False))


def _clipped_each(weights: Arrays, gradients: Arrays, step: int) -> Arrays:
    clipped = {
        path: g * np.minimum(1, 0.05 / np.linalg.norm(g.astype(np.float64)))
        for path, g in gradients.items()
    }
    return descent(weights, clipped, step)


def _clipped_together(weights: Arrays, gradients: Arrays, step: int) -> Arrays:
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values()))
    factor = min(1, 0.05 / norm)
    return descent(weights, {path: g * factor for path, g in gradients.items()}, step)


def _scheduled(weights: Arrays, gradients: Arrays, step: int) -> Arrays:
    rate = np.float32(RATE * 0.5**step)
    return {path: weights[path] - rate * g for path, g in gradients.items()}


def _classes() -> Any:
    model = _sequential()
    out = layers.Dense(3, name="logits")(model.outputs[0])
    model = keras.Model(model.inputs, out, name="net")
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE), entropy)
    return model


def _cross_entropy(outputs: list[Any], y: Any, weight: Any) -> Any:
    chosen = tf.gather(outputs[0], y, axis=1, batch_dims=1)
    return tf.reduce_mean((tf.reduce_logsumexp(outputs[0], axis=1) - chosen) * weight)


STYLES = (
    Style("Sequential", _sequential, X, Y),
    Style(
        "Functional, several inputs and outputs",
        _several_inputs_and_outputs,
        {"a": X, "b": SECOND_X},
        {"left": Y, "right": SECOND_Y},
        loss=_several_losses,
    ),
    Style("models in models", _models_in_models, X, Y),
    Style("run_eagerly", lambda: _sequential(run_eagerly=True), X, Y),
    # XLA may fuse the update's product and difference.
    Style("jit_compile", lambda: _sequential(jit_compile=True), X, Y, updated=None),
    Style("steps_per_execution=2", lambda: _sequential(steps_per_execution=2), X, Y),
    Style("mixed_bfloat16", _bfloat16, X, Y),
    Style(
        "clipnorm",
        lambda: _sequential(optimizer=keras.optimizers.SGD(RATE, clipnorm=0.05)),
        X,
        Y,
        updated=_clipped_each,
    ),
    Style(
        "global_clipnorm",
        lambda: _sequential(optimizer=keras.optimizers.SGD(RATE, global_clipnorm=0.05)),
        X,
        Y,
        updated=_clipped_together,
    ),
    Style(
        "exponential moving average of weights",
        lambda: _sequential(optimizer=keras.optimizers.SGD(RATE, use_ema=True)),
        X,
        Y,
    ),
    Style(
        "learning rate schedule",
        lambda: _sequential(
            optimizer=keras.optimizers.SGD(
                keras.optimizers.schedules.ExponentialDecay(RATE, 1, 0.5)
            )
        ),
        X,
        Y,
        updated=_scheduled,
    ),
    Style(
        "sample_weight", _sequential, X, Y, {"sample_weight": SAMPLE_WEIGHT}, weight=SAMPLE_WEIGHT
    ),
    Style(
        "class_weight",
        _classes,
        X,
        CLASSES,
        {"class_weight": CLASS_WEIGHT},
        weight=np.array([CLASS_WEIGHT[int(c)] for c in CLASSES], np.float32),
        loss=_cross_entropy,
    ),
    Style(
        "GRU and LSTM",
        lambda: _sequential(
            layers.GRU(3, return_sequences=True, name="gru"),
            layers.LSTM(3, name="lstm"),
            x=SEQUENCES,
        ),
        SEQUENCES,
        Y,
    ),
    Style("MultiHeadAttention and LayerNormalization", _attention, SEQUENCES, Y),
    Style(
        "BatchNormalization",
        lambda: _sequential(layers.BatchNormalization(name="norm")),
        X,
        Y,
    ),
    Style("frozen layers", _frozen, X, Y),
)
"""Every style that :mod:`test_tracer_styles` checks, kind by kind."""
