"""Models and data that the tests of the tracer train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np
from keras import layers

if TYPE_CHECKING:
    import numpy.typing as npt

Mode = Literal["compiled", "eager", "xla"]
MODES: tuple[Mode, ...] = ("compiled", "eager", "xla")

Array = "npt.NDArray[Any]"


def images(count: int = 40) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return random 8x8 images and labels of three classes."""
    rng = np.random.default_rng(0)
    return rng.random((count, 8, 8, 1), dtype=np.float32), rng.integers(0, 3, count)


def vectors(count: int = 24) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return random vectors of three features, and targets of two."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 3)).astype(np.float32)
    return x, rng.normal(size=(count, 2)).astype(np.float32)


def compile_for(model: Any, mode: Mode, optimizer: Any, loss: str, **keywords: Any) -> Any:
    """Compile `model` to run in `mode`."""
    model.compile(
        optimizer, loss, run_eagerly=mode == "eager", jit_compile=mode == "xla", **keywords
    )
    return model


def cnn(mode: Mode = "compiled") -> Any:
    """Return a convolutional network with dropout and batch normalisation, always the same."""
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(8, activation="tanh"),
            layers.Dense(3, activation="softmax"),
        ],
        name="cnn",
    )
    loss = "sparse_categorical_crossentropy"
    return compile_for(model, mode, "adam", loss, metrics=["accuracy"])


def mlp(mode: Mode = "compiled", rate: float = 0.1) -> Any:
    """Return two dense layers trained by plain gradient descent on squared error."""
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, activation="tanh", name="hidden"),
            layers.Dense(2, name="out"),
        ],
        name="mlp",
    )
    return compile_for(model, mode, keras.optimizers.SGD(rate), "mse")


def functional_mlp() -> Any:
    """Return the layers of :func:`mlp` as a Functional model."""
    keras.utils.set_random_seed(7)
    x = keras.Input((3,))
    y = layers.Dense(2, name="out")(layers.Dense(4, activation="tanh", name="hidden")(x))
    model = keras.Model(x, y, name="mlp")
    return compile_for(model, "compiled", keras.optimizers.SGD(0.1), "mse")


class SubclassedMlp(keras.Model):  # type: ignore[misc]
    """The layers of :func:`mlp` in a subclass."""

    def __init__(self) -> None:
        super().__init__(name="mlp")
        self.hidden = layers.Dense(4, activation="tanh", name="hidden")
        self.out = layers.Dense(2, name="out")

    def build(self, input_shape: Any) -> None:
        self.hidden.build(input_shape)
        self.out.build((None, 4))

    def call(self, x: Any) -> Any:
        return self.out(self.hidden(x))


def subclassed_mlp() -> Any:
    """Return :class:`SubclassedMlp`, compiled."""
    keras.utils.set_random_seed(7)
    return compile_for(SubclassedMlp(), "compiled", keras.optimizers.SGD(0.1), "mse")


def weights_of(model: Any) -> list[npt.NDArray[Any]]:
    """Return copies of all weights."""
    return [variable.numpy() for variable in model.weights]
