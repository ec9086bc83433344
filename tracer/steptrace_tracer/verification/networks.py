"""Well-known networks to verify the tracer with, trained on random numbers.

Run as a module, it trains one: ``python -m steptrace_tracer.verification.networks ResNet50``.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_schema.errors import UnknownNameError
from steptrace_schema.format.policy import Policy
from steptrace_schema.names import KINDS
from steptrace_tracer.scripts.script import Script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

APPLICATIONS: Final = (
    "MobileNetV2",
    "MobileNetV3Small",
    "ResNet50",
    "ResNet50V2",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "DenseNet121",
    "Xception",
    "InceptionV3",
    "NASNetMobile",
    "ConvNeXtTiny",
    "VGG16",
)
"""Networks of ``keras.applications``."""
STEPS: Final = 6
"""Batches that each network is trained on."""
_SMALLEST: Final = {"Xception": 71, "InceptionV3": 75}  # images that the network takes
_VARIED: Final = ("MobileNetV2 64", "ResNet50 64", "unet 64", "vit 64")
_UNREPEATED: Final = ("InceptionV3 75", "InceptionV3 96", "DenseNet121 96")
"""Rows that only repeat themselves where operations run one at a time."""
_CLASSES: Final = 2
_WORDS: Final = 30


@dataclasses.dataclass(frozen=True)
class Row:
    """A network, and how it is trained.

    Attributes
    ----------
    name
        What it is.
    size
        Height and width of its images, in pixels; 0 where it takes none.
    how
        What differs from the default: ``xla``, ``bfloat16``, ``batch32`` and ``serial`` (one
        operation at a time) in the training, ``gradients`` (and weights) and ``everything`` in
        what is recorded.
    """

    name: str
    size: int
    how: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str) -> Row:
        """Read a row as `str` writes it, such as ``MobileNetV2 64 xla``.

        Raises
        ------
        UnknownNameError
            If there is no such network.
        """
        name, *rest = text.split() or [""]
        if name not in APPLICATIONS and name not in _OWN:
            known = ", ".join((*APPLICATIONS, *_OWN))
            msg = f"there is no network {name!r} to verify; there are {known}"
            raise UnknownNameError(msg)
        size = next((int(part) for part in rest if part.isdigit()), 0)
        if name in APPLICATIONS or name in _WITH_IMAGES:
            size = max(size or 64, _SMALLEST.get(name, 0))
        return cls(name, size, tuple(part for part in rest if not part.isdigit()))

    def __str__(self) -> str:
        """Return its name, its pixels, and what differs."""
        return " ".join((self.name, *([str(self.size)] if self.size else []), *self.how))

    @property
    def policy(self) -> Policy:
        """What is recorded."""
        if "gradients" in self.how:
            return Policy(kinds=("weights", "gradients"))
        return Policy(kinds=KINDS) if "everything" in self.how else Policy()

    def script(self) -> Script:
        """Return the program that trains it."""
        return Script("steptrace_tracer.verification.networks", (str(self),), is_module=True)


def rows() -> tuple[Row, ...]:
    """Return all rows: each network, those of images in two sizes, and some in other ways."""
    texts = [f"{name} {pixels}" for pixels in (64, 96) for name in APPLICATIONS]
    texts += [*_OWN]
    ways = ("xla", "bfloat16", "batch32", "gradients", "everything")
    texts += [f"{name} {way}" for name in _VARIED for way in ways]
    texts += [f"{name} serial" for name in _UNREPEATED]
    return tuple(dict.fromkeys(map(Row.of, texts)))


def train(row: Row, steps: int, callbacks: Iterable[Any] = ()) -> Any:
    """Train a network from a seed on random numbers, Adam, `fit` as compiled by default.

    Parameters
    ----------
    row
        Which network, and how.
    steps
        How many batches, of 8 samples each or what the row says.
    callbacks
        For ``fit``.

    Returns
    -------
    keras.Model
        The trained model.
    """
    import keras

    if "serial" in row.how:
        import tensorflow as tf

        tf.config.threading.set_inter_op_parallelism_threads(1)
    if "bfloat16" in row.how:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    keras.utils.set_random_seed(0)
    batch = 32 if "batch32" in row.how else 8
    numbers = np.random.default_rng(0)
    x, y = _samples(row, batch * steps, numbers)
    make = _OWN.get(row.name)
    if make is None:
        shape = (row.size, row.size, 3)
        application = getattr(keras.applications, row.name)
        model = application(input_shape=shape, weights=None, classes=_CLASSES)
    else:
        model = make(row.size)
    model.compile("adam", _loss(row), jit_compile="xla" in row.how)
    model.fit(x, y, batch_size=batch, verbose=0, shuffle=False, callbacks=list(callbacks))
    return model


def _samples(row: Row, count: int, numbers: np.random.Generator) -> tuple[Any, Any]:
    if row.size:
        shape: tuple[int, ...] = (row.size, row.size, 3)
    elif row.name in ("lstm", "gru"):
        shape = (12, 8)
    else:
        shape = (20,)
    if row.name == "translator":
        words = numbers.integers(1, _WORDS, (3, count, 7))
        return [words[0], words[1]], words[2]
    x = numbers.normal(size=(count, *shape)).astype("f4")
    return x, x if row.name in _WITHOUT_LABELS else numbers.integers(0, _CLASSES, count)


def _loss(row: Row) -> str | None:
    return None if row.name in _WITHOUT_LABELS else "sparse_categorical_crossentropy"


def _recurrent(kind: str) -> Callable[[int], Any]:
    def make(_: int) -> Any:
        import keras
        from keras import layers

        layer = getattr(layers, kind)
        x = inputs = keras.Input((12, 8))
        x = layer(16, return_sequences=True, dropout=0.1)(x)
        x = layers.Bidirectional(layer(16))(x)
        return keras.Model(inputs, layers.Dense(_CLASSES, activation="softmax")(x))

    return make


def _unet(size: int) -> Any:
    import keras
    from keras import layers

    x = inputs = keras.Input((size, size, 3))
    down = []
    for filters in (8, 16, 32):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        down.append(x)
        x = layers.MaxPooling2D()(x)
    for filters, skip in zip((32, 16, 8), reversed(down), strict=True):
        x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        x = layers.Concatenate()([x, skip])
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(_CLASSES, activation="softmax", dtype="float32")(x)
    return keras.Model(inputs, outputs)


def _attended(x: Any, other: Any) -> Any:
    """Return a transformer's block: attention to `other`, and a small network."""
    from keras import layers

    y = layers.LayerNormalization()(x)
    other = y if other is None else other
    x = layers.Add()([x, layers.MultiHeadAttention(2, 16, dropout=0.1)(y, other)])
    y = layers.Dense(64, activation="gelu")(layers.LayerNormalization()(x))
    return layers.Add()([x, layers.Dropout(0.1)(layers.Dense(32)(y))])


def _vit(size: int) -> Any:
    import keras
    from keras import layers

    inputs = keras.Input((size, size, 3))
    x = layers.Reshape((-1, 32))(layers.Conv2D(32, 8, strides=8)(inputs))
    for _ in range(2):
        x = _attended(x, None)
    x = layers.GlobalAveragePooling1D()(x)
    outputs = layers.Dense(_CLASSES, activation="softmax", dtype="float32")(x)
    return keras.Model(inputs, outputs)


def _translator(_: int) -> Any:
    import keras
    from keras import layers

    source, target = keras.Input((7,), dtype="int32"), keras.Input((7,), dtype="int32")
    encoded = _attended(layers.Embedding(_WORDS, 32)(source), None)
    x = _attended(layers.Embedding(_WORDS, 32)(target), None)
    x = _attended(x, encoded)
    return keras.Model([source, target], layers.Dense(_WORDS, activation="softmax")(x))


def _vae(_: int) -> Any:
    import keras
    from keras import layers, ops

    class Sampled(layers.Layer):  # type: ignore[misc]
        """Draws from the distribution that it is given, and adds its divergence to the loss."""

        def __init__(self) -> None:
            super().__init__()
            self.seeds = keras.random.SeedGenerator(5)

        def call(self, mean: Any, log: Any) -> Any:
            drawn = keras.random.normal(ops.shape(mean), seed=self.seeds)
            self.add_loss(-0.5 * ops.mean(1 + log - ops.square(mean) - ops.exp(log)))
            return mean + ops.exp(0.5 * log) * drawn

    inputs = keras.Input((20,))
    x = layers.Dense(32, activation="relu")(inputs)
    drawn = Sampled()(layers.Dense(4)(x), layers.Dense(4)(x))
    outputs = layers.Dense(20)(layers.Dense(32, activation="relu")(drawn))

    class Vae(keras.Model):  # type: ignore[misc]
        """Adds how well it gives back its input."""

        def compute_loss(self, x: Any, y: Any, y_pred: Any, *_: Any, **__: Any) -> Any:
            return ops.mean(ops.square(y - y_pred)) + sum(self.losses)

    return Vae(inputs, outputs)


def _wgan(_: int) -> Any:
    import keras
    import tensorflow as tf
    from keras import layers

    class Wgan(keras.Model):  # type: ignore[misc]
        """A generator and a critic, with a penalty on the critic's gradient."""

        def __init__(self) -> None:
            super().__init__()
            self.generator = keras.Sequential([keras.Input((8,)), layers.Dense(20, "tanh")])
            hidden = layers.Dense(16, "relu")
            self.critic = keras.Sequential([keras.Input((20,)), hidden, layers.Dense(1)])
            self.rates = keras.optimizers.Adam(1e-3)
            self.seeds = keras.random.SeedGenerator(2)
            for part in (self.generator, self.critic):
                part.build(part.input_shape)
            self.built = True

        def call(self, x: Any) -> Any:
            return self.critic(x)

        def train_step(self, data: Any) -> dict[str, Any]:
            real, _ = data
            noise = keras.random.normal((tf.shape(real)[0], 8), seed=self.seeds)
            with tf.GradientTape() as tape:
                made = self.generator(noise, training=True)
                between = (real + made) / 2
                with tf.GradientTape() as inner:
                    inner.watch(between)
                    value = self.critic(between, training=True)
                size = tf.norm(inner.gradient(value, between), axis=1)
                loss = tf.reduce_mean(self.critic(made) - self.critic(real))
                loss += 10 * tf.reduce_mean(tf.square(size - 1))
            weights = self.critic.trainable_variables
            self.optimizer.apply(tape.gradient(loss, weights), weights)
            with tf.GradientTape() as tape:
                tricked = -tf.reduce_mean(self.critic(self.generator(noise, training=True)))
            weights = self.generator.trainable_variables
            self.rates.apply(tape.gradient(tricked, weights), weights)
            return {"loss": loss, "tricked": tricked}

    return Wgan()


_OWN: Final[dict[str, Callable[[int], Any]]] = {
    "unet": _unet,
    "vit": _vit,
    "translator": _translator,
    "lstm": _recurrent("LSTM"),
    "gru": _recurrent("GRU"),
    "vae": _vae,
    "wgan": _wgan,
}
"""Networks that are made here: functions of the images' size."""
_WITH_IMAGES: Final = ("unet", "vit")
_WITHOUT_LABELS: Final = ("vae", "wgan")


if __name__ == "__main__":
    train(Row.of(" ".join(sys.argv[1:])), STEPS)
