"""What a program of the corpus is, and the first of them: tables, digits and made sequences."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import keras
import numpy as np
from sklearn import datasets

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

L = keras.layers
CLASSES: Final = "sparse_categorical_crossentropy"


@dataclasses.dataclass
class Program:
    """A model that is not compiled yet, with its data, its loss and its optimizer."""

    model: Any
    x: Any
    """An array, or a list of one for each input of the model."""
    y: Any
    """An array, or a list of one for each output of the model."""
    loss: Any
    optimizer: Callable[[float], Any]
    """From a factor of the learning rate."""
    not_for: frozenset[str] = frozenset()
    """Mutations that its data does not allow."""
    train: Callable[..., None] | None = None
    """Trains where ``fit`` does not: takes program, optimizer, batches, callbacks and tracer."""
    strategy: Any = None
    """The strategy whose replicas the model is on."""


TOKENS: Final = frozenset({"batch_scaled", "batch_clipped", "nan_in_input", "inputs_raw"})
"""Mutations that inputs of token ids do not allow."""


def scaled(x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return columns of mean 0 and standard deviation 1."""
    return np.asarray((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6), dtype=np.float32)


def sequential(name: str, shape: tuple[int, ...], *layers: Any, dtype: str = "float32") -> Any:
    """Return a chain of layers."""
    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers], name=name)


def digits_mlp() -> Program:
    """Momentum, two hidden layers."""
    data = datasets.load_digits()
    model = sequential(
        "mlp", (64,), L.Dense(64, "relu"), L.Dense(48, "relu"), L.Dense(10, "softmax")
    )
    x = (data.data / 16).astype(np.float32)
    return Program(
        model, x, data.target, CLASSES, lambda f: keras.optimizers.SGD(0.05 * f, momentum=0.9)
    )


def digits_residual() -> Program:
    """Adam, a residual network of convolutions with normalisation."""
    data = datasets.load_digits()
    first = keras.Input((8, 8, 1))
    h = L.Conv2D(16, 3, padding="same")(first)
    for _ in range(2):
        z = L.Activation("relu")(L.BatchNormalization()(h))
        h = L.Add()([h, L.Conv2D(16, 3, padding="same")(z)])
    last = L.Dense(10, "softmax")(L.GlobalAveragePooling2D()(h))
    x = (data.images / 16).astype(np.float32)[..., np.newaxis]
    model = keras.Model(first, last, name="residual")
    return Program(model, x, data.target, CLASSES, lambda f: keras.optimizers.Adam(3e-3 * f))


def sign_lstm() -> Program:
    """RMSprop, a recurrent network on made sequences."""
    x = np.random.default_rng(2).normal(size=(1600, 12, 4)).astype(np.float32)
    y = (x[:, :, 0].sum(axis=1) > 0).astype(np.int64) + (x[:, -1, 1] > 0)
    model = sequential("lstm", (12, 4), L.LSTM(24), L.Dense(3, "softmax"))
    return Program(model, x, y, CLASSES, lambda f: keras.optimizers.RMSprop(3e-3 * f))


def wine() -> Program:
    """Nesterov momentum, 13 measurements of 178 wines."""
    data = datasets.load_wine()
    model = sequential(
        "wine", (13,), L.Dense(24, "tanh"), L.Dense(16, "tanh"), L.Dense(3, "softmax")
    )
    rule = lambda f: keras.optimizers.SGD(0.02 * f, momentum=0.9, nesterov=True)  # noqa: E731
    return Program(model, scaled(data.data), data.target, CLASSES, rule)


def cancer() -> Program:
    """Adam, a binary classification with a sigmoid."""
    data = datasets.load_breast_cancer()
    model = sequential(
        "cancer", (30,), L.Dense(32, "relu"), L.Dense(16, "relu"), L.Dense(1, "sigmoid")
    )
    y = data.target.astype(np.float32)[:, np.newaxis]
    return Program(
        model,
        scaled(data.data),
        y,
        "binary_crossentropy",
        lambda f: keras.optimizers.Adam(2e-3 * f),
    )


def diabetes() -> Program:
    """Adamax, a noisy regression."""
    data = datasets.load_diabetes()
    model = sequential("diabetes", (10,), L.Dense(32, "elu"), L.Dense(16, "elu"), L.Dense(1))
    y = scaled(data.target[:, np.newaxis])
    return Program(model, scaled(data.data), y, "mse", lambda f: keras.optimizers.Adamax(5e-3 * f))


def echo_conv() -> Program:
    """Nadam, one-dimensional convolutions on made sequences."""
    x = np.random.default_rng(6).normal(size=(1500, 20, 3)).astype(np.float32)
    y = (x[:, :-1, 0] * x[:, 1:, 0]).sum(axis=1, keepdims=True).astype(np.float32) / 4
    model = sequential(
        "echo",
        (20, 3),
        L.Conv1D(24, 3, activation="relu"),
        L.Conv1D(24, 3, activation="relu"),
        L.GlobalAveragePooling1D(),
        L.Dense(1),
    )
    return Program(model, x, y, "mse", lambda f: keras.optimizers.Nadam(3e-3 * f))


def digits_layernorm() -> Program:
    """AdamW, residual dense blocks with layer normalisation."""
    data = datasets.load_digits()
    first = keras.Input((64,))
    h = L.Dense(48)(first)
    for _ in range(2):
        h = L.Add()([h, L.Dense(48)(L.Dense(64, "gelu")(L.LayerNormalization()(h)))])
    model = keras.Model(first, L.Dense(10, "softmax")(h), name="blocks")
    x = (data.data / 16).astype(np.float32)
    return Program(model, x, data.target, CLASSES, lambda f: keras.optimizers.AdamW(2e-3 * f))
