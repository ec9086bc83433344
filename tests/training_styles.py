"""Ways to train with ``fit``: each builds a model and says what it is trained on."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

if TYPE_CHECKING:
    from collections.abc import Callable

COMPARED = (
    "weights",
    "gradients",
    "activations",
    "activation_gradients",
    "inputs",
    "probe",
    "probe_gradients",
)
"""Kinds that are compared with a second computation; besides the optimizer's momentum."""

SAMPLES = 6
"""Rows of a batch."""


@dataclasses.dataclass(frozen=True)
class Style:
    """One way to train.

    Attributes
    ----------
    name
        As the page on capture calls it.
    build
        Returns a compiled model, always the same.
    batches
        Returns the data of one epoch, batch by batch: (x, y) or (x, y, sample_weight).
    tolerance
        Relative to the largest number of an array: what the model's precision gives.
    fit
        More arguments of ``fit``.
    callbacks
        More callbacks of ``fit``.
    missing
        Shell patterns of what the trace says that it cannot hold; nothing else may be missing.
    lacks
        Kinds that it cannot have, with the reason.
    kept_weights
        Whether the weights after ``fit`` are those after the last step.
    """

    name: str
    build: Callable[[], Any]
    batches: Callable[[], list[tuple[Any, ...]]]
    tolerance: float = 1e-5
    fit: dict[str, Any] = dataclasses.field(default_factory=dict)
    callbacks: Callable[[], list[Any]] = list
    missing: tuple[str, ...] = ()
    lacks: tuple[tuple[str, str], ...] = ()
    kept_weights: bool = True

    def train(self, callbacks: list[Any]) -> Any:
        """Train two epochs and return the model."""
        model, batches = self.build(), self.batches()
        first = batches[0]

        def signature(*values: Any) -> Any:
            known = np.asarray(values[0])
            shape = [None, *known.shape[1:]]
            for value in values[1:]:
                other = np.asarray(value).shape
                shape = [
                    a if a == b else None for a, b in zip(shape, [None, *other[1:]], strict=True)
                ]
            return tf.TensorSpec(shape, known.dtype)

        spec = tf.nest.map_structure(signature, *batches) if len(batches) > 1 else None
        data = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=spec)
        data = data.apply(tf.data.experimental.assert_cardinality(len(batches)))
        assert len(first) in (2, 3)
        model.fit(
            data,
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=[*callbacks, *self.callbacks()],
            **self.fit,
        )
        return model


def _vectors(count: int = 3, rows: int = SAMPLES, weights: bool = False) -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(0)
    found: list[tuple[Any, ...]] = []
    for number in range(count):
        n = rows if number < count - 1 else rows - 2  # the last batch is smaller
        x = rng.normal(size=(n, 3)).astype(np.float32)
        y = rng.normal(size=(n, 2)).astype(np.float32)
        weight = (np.linspace(0.5, 2.0, n).astype(np.float32),) if weights else ()
        found.append((x, y, *weight))
    return found


def _labels() -> list[tuple[Any, ...]]:
    return [(x, np.arange(len(x)) % 2) for x, _ in _vectors()]


def _sequences(lengths: tuple[int, ...] = (5, 5, 5)) -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(1)
    return [
        (
            rng.normal(size=(SAMPLES, length, 4)).astype(np.float32),
            rng.normal(size=(SAMPLES, 2)).astype(np.float32),
        )
        for length in lengths
    ]


def _tokens() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(2)
    return [
        (
            rng.integers(0, 7, (SAMPLES, 5)).astype(np.int32),
            rng.normal(size=(SAMPLES, 2)).astype(np.float32),
        )
        for _ in range(3)
    ]


def _sequential(*inner: Any, shape: tuple[Any, ...] = (3,)) -> Any:
    return keras.Sequential([keras.Input(shape), *inner, layers.Dense(2, name="out")], name="model")


def _built(make: Callable[[], Any], **settings: Any) -> Callable[[], Any]:
    def build() -> Any:
        keras.utils.set_random_seed(7)
        model = make()
        optimizer = settings.get("optimizer", lambda: keras.optimizers.Adam(0.01))()
        rest = {key: value for key, value in settings.items() if key not in ("optimizer", "loss")}
        model.compile(optimizer, settings.get("loss", "mse"), **rest)
        return model

    return build


def _plain() -> Any:
    return _sequential(layers.Dense(4, activation="tanh", name="hidden"))


def _several() -> Any:
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    joined = layers.Add()([layers.Dense(4, activation="relu")(a), layers.Dense(4)(b)])
    return keras.Model({"a": a, "b": b}, [layers.Dense(2)(joined), layers.Dense(1)(joined)])


def _several_batches() -> list[tuple[Any, ...]]:
    return [({"a": x, "b": -x}, (y, y[:, :1])) for x, y in _vectors()]


class _Subclassed(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name="model")
        self.hidden = layers.Dense(4, activation="tanh", name="hidden")
        self.out = layers.Dense(2, name="out")

    def call(self, x: Any, training: bool = False) -> Any:
        return self.out(self.hidden(x))


def _nested() -> Any:
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(4, activation="tanh")], name="inner")
    return _sequential(inner)


def _shared() -> Any:
    x = keras.Input((3,))
    twice = layers.Dense(3, activation="tanh", name="twice")
    return keras.Model(x, layers.Dense(2, name="out")(twice(twice(x))))


class _OwnStep(keras.Sequential):  # type: ignore[misc]
    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        return {"own": loss}


def _own_step() -> Any:
    return _OwnStep(
        [keras.Input((3,)), layers.Dense(4, activation="tanh"), layers.Dense(2)], name="own"
    )


def _frozen() -> Any:
    model = _plain()
    model.layers[0].trainable = False
    return model


def _attention() -> Any:
    x = keras.Input((5, 4))
    attended = layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    normed = layers.LayerNormalization()(layers.Add()([x, attended]))
    return keras.Model(x, layers.Dense(2)(_relu()(layers.Flatten()(normed))))


def _images() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(3)
    return [
        (rng.random((SAMPLES, 6, 6, 1), dtype=np.float32), np.arange(SAMPLES) % 3) for _ in range(3)
    ]


def _convolutional() -> Any:
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(3, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )


def _mixed(policy: str) -> Callable[[], Any]:
    def make() -> Any:
        return keras.Sequential(
            [
                keras.Input((3,)),
                layers.Dense(4, activation="tanh", dtype=policy),
                layers.Dense(2, dtype=policy),
            ]
        )

    return make


def _half(policy: str) -> Callable[[], Any]:
    def optimizer() -> Any:
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), 256.0)

    return _built(_mixed(policy), optimizer=optimizer if "float16" in policy[:13] else _adam)


def _relu() -> Any:
    return layers.Dense(4, activation="relu")


def _adam(**settings: Any) -> Any:
    return keras.optimizers.Adam(0.01, **settings)


def _scheduled() -> Any:
    return keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 2, 0.5))


STYLES: tuple[Style, ...] = (
    Style("Sequential", _built(_plain), _vectors),
    Style(
        "convolutional, softmax",
        _built(_convolutional, loss="sparse_categorical_crossentropy"),
        _images,
        missing=("activation_gradients/*/dense/output",),  # its logits are there
    ),
    Style(
        "Functional, several inputs and outputs",
        _built(_several),
        _several_batches,
        missing=("probe_gradients/*/saliency_b",),  # that activation sees the other input only
    ),
    Style("subclassed", _built(_Subclassed), _vectors),
    Style("model in a model", _built(_nested), _vectors),
    Style("a layer called twice", _built(_shared), _vectors),
    Style("own train_step", _built(_own_step), _vectors),
    Style("run_eagerly", _built(_plain, run_eagerly=True), _vectors),
    Style("jit_compile", _built(_plain, jit_compile=True), _vectors),
    Style("steps_per_execution", _built(_plain, steps_per_execution=2), _vectors),
    Style("mixed_float16, loss scaling", _half("mixed_float16"), _vectors, tolerance=4e-3),
    Style("mixed_bfloat16", _built(_mixed("mixed_bfloat16")), _vectors, tolerance=3e-2),
    Style(
        "gradient clipping", _built(_plain, optimizer=lambda: _adam(global_clipnorm=0.1)), _vectors
    ),
    Style(
        "gradient accumulation",
        _built(_plain, optimizer=lambda: _adam(gradient_accumulation_steps=2)),
        _vectors,
    ),
    Style(
        "moving average of weights",
        _built(_plain, optimizer=lambda: _adam(use_ema=True)),
        _vectors,
        kept_weights=False,
    ),
    Style("sample_weight", _built(_plain), lambda: _vectors(weights=True)),
    Style(
        "class_weight",
        _built(
            lambda: _sequential(_relu()),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        ),
        _labels,
        fit={"class_weight": {0: 0.5, 1: 2.0}},
    ),
    Style(
        "LSTM",
        _built(lambda: _sequential(layers.LSTM(3, name="recurrent"), _relu(), shape=(5, 4))),
        _sequences,
        missing=("*/lstm_cell/*", "probe/*/recurrent/*"),  # what runs inside its loop
    ),
    Style(
        "GRU, sequence outputs",
        _built(
            lambda: _sequential(
                layers.GRU(3, return_sequences=True), layers.Flatten(), _relu(), shape=(5, 4)
            )
        ),
        _sequences,
        missing=("*/gru_cell/*", "probe/*/gru/*"),
    ),
    Style(
        "sequences of different lengths",
        _built(lambda: _sequential(_relu(), layers.GlobalAveragePooling1D(), shape=(None, 4))),
        lambda: _sequences((5, 3, 4)),
    ),
    Style(
        "Embedding, sparse gradients",
        _built(lambda: _sequential(layers.Embedding(7, 4), layers.Flatten(), _relu(), shape=(5,))),
        _tokens,
        missing=("inputs/x_gradient", "probe_gradients/*"),
        lacks=(("probe_gradients", "tokens are numbers of words, which have no gradient"),),
    ),
    Style(
        "MultiHeadAttention, LayerNormalization",
        _built(_attention),
        _sequences,
        missing=("*/attention/dropout/*", "*/attention/softmax/*"),  # one fused operation
    ),
    Style(
        "BatchNormalization",
        _built(lambda: _sequential(layers.Dense(4), layers.BatchNormalization(), layers.ReLU())),
        _vectors,
    ),
    Style(
        "Dropout",
        _built(
            lambda: _sequential(layers.Dense(8, activation="relu"), layers.Dropout(0.4, seed=3))
        ),
        _vectors,
    ),
    Style("frozen layers", _built(_frozen), _vectors),
    Style("learning-rate schedule", _built(_plain, optimizer=_scheduled), _vectors),
    Style(
        "ReduceLROnPlateau, EarlyStopping",
        _built(_plain),
        _vectors,
        callbacks=lambda: [
            keras.callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=9.0),
            keras.callbacks.EarlyStopping("loss", patience=5),
        ],
    ),
)
