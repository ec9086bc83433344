"""Programs on pictures: scikit-learn's digits, and photos where there is a folder of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
from sklearn import datasets

from diagnosis.programs import CLASSES, L, Program, sequential

PHOTOS = "STEPTRACE_PHOTOS"
"""Variable of the environment that names a folder with a folder of photos for each class."""
_SIDE = 32
_EACH = 220  # photos of a class


def _digits() -> tuple[Any, Any]:
    data = datasets.load_digits()
    return (data.images / 16).astype(np.float32)[..., np.newaxis], data.target


def digits_autoencoder() -> Program:
    """Adam, a narrow autoencoder: the target is the input."""
    x = _digits()[0].reshape(-1, 64)
    model = sequential(
        "autoencoder", (64,), L.Dense(32, "relu"), L.Dense(8), L.Dense(32, "relu"), L.Dense(64)
    )
    return Program(model, x, x.copy(), "mse", lambda f: keras.optimizers.Adam(3e-3 * f))


def digits_segment() -> Program:
    """Adam, convolutions that say of every pixel whether it is ink, from a noisy picture."""
    x, _ = _digits()
    noisy = (0.6 * x + np.random.default_rng(31).normal(0, 0.3, x.shape)).astype(np.float32)
    model = sequential(
        "segment",
        (8, 8, 1),
        L.Conv2D(12, 3, padding="same", activation="relu"),
        L.Conv2D(12, 3, padding="same", activation="relu"),
        L.Conv2D(1, 1, activation="sigmoid"),
    )
    y = (x > 0.5).astype(np.float32)
    return Program(
        model, noisy, y, "binary_crossentropy", lambda f: keras.optimizers.Adam(5e-3 * f)
    )


def digits_two_inputs() -> Program:
    """RMSprop, a picture and a table of its marginal sums."""
    x, y = _digits()
    table = np.concatenate([x.sum(axis=(1, 3)), x.sum(axis=(2, 3))], axis=1) / 3 - 1
    picture, numbers = keras.Input((8, 8, 1), name="picture"), keras.Input((16,), name="numbers")
    h = L.Flatten()(L.Conv2D(8, 3, strides=2, activation="relu")(picture))
    h = L.Concatenate()([h, L.Dense(24, "relu")(numbers)])
    model = keras.Model([picture, numbers], L.Dense(10, "softmax")(h), name="two_inputs")
    rule = lambda f: keras.optimizers.RMSprop(2e-3 * f)  # noqa: E731
    return Program(model, [x, table.astype(np.float32)], y, CLASSES, rule)


def digits_two_heads() -> Program:
    """Adam, one trunk with a head for the class and one for the amount of ink."""
    x, y = _digits()
    ink = x.mean(axis=(1, 2))
    ink = (ink - ink.mean()) / ink.std()
    first = keras.Input((8, 8, 1))
    h = L.Dense(48, "relu")(L.Flatten()(first))
    heads = [L.Dense(10, "softmax", name="kind")(h), L.Dense(1, name="ink")(h)]
    model = keras.Model(first, heads, name="two_heads")
    rule = lambda f: keras.optimizers.Adam(3e-3 * f)  # noqa: E731
    wrong = frozenset({"wrong_output", "sorted"})
    return Program(model, x, [y, ink.astype(np.float32)], [CLASSES, "mse"], rule, wrong)


def digits_fine_tuned() -> Program:
    """SGD with momentum, a new head on a frozen base that was trained on the other five digits."""
    x, y = _digits()
    base = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(12, 3, activation="relu"),
            L.Flatten(),
            L.Dense(32, "relu"),
        ],
        name="base",
    )
    old = keras.Sequential([base, L.Dense(5, "softmax")])
    old.compile("adam", CLASSES)
    old.fit(x[y < 5], y[y < 5], epochs=3, verbose=0)
    base.trainable = False
    model = keras.Sequential([keras.Input((8, 8, 1)), base, L.Dense(5, "softmax")], name="tuned")
    rule = lambda f: keras.optimizers.SGD(0.1 * f, momentum=0.9)  # noqa: E731
    nothing_left = frozenset({"frozen_first"})
    return Program(model, x[y >= 5], y[y >= 5] - 5, CLASSES, rule, nothing_left)


def digits_patches() -> Program:
    """AdamW, attention over the sixteen patches of a digit."""
    x, y = _digits()
    patches = x.reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 16, 4)
    first = keras.Input((16, 4))
    h = L.Dense(24)(first)
    z = L.LayerNormalization()(h)
    h = L.Add()([h, L.MultiHeadAttention(2, 12)(z, z)])
    h = L.Flatten()(L.LayerNormalization()(h))
    model = keras.Model(first, L.Dense(10, "softmax")(h), name="patches")
    rule = lambda f: keras.optimizers.AdamW(2e-3 * f, weight_decay=0.01)  # noqa: E731
    return Program(model, patches.astype(np.float32), y, CLASSES, rule)


def photos() -> Program:
    """Adam, convolutions with batch normalisation and dropout on photos of two kinds."""
    pictures, labels = [], []
    for label, folder in enumerate(sorted(Path(os.environ[PHOTOS]).glob("*/"))):
        for path in sorted(folder.glob("*.jpg"))[:_EACH]:
            picture = keras.utils.load_img(path, target_size=(_SIDE, _SIDE))
            pictures.append(np.asarray(picture, dtype=np.float32) / 127.5 - 1)
            labels.append(label)
    layers = []
    for filters in (12, 24):
        layers += [
            L.Conv2D(filters, 3, strides=2, use_bias=False),
            L.BatchNormalization(),
            L.Activation("relu"),
        ]
    model = sequential(
        "photos",
        (_SIDE, _SIDE, 3),
        *layers,
        L.GlobalAveragePooling2D(),
        L.Dropout(0.2),
        L.Dense(2, "softmax"),
    )
    rule = lambda f: keras.optimizers.Adam(3e-3 * f)  # noqa: E731
    return Program(model, np.stack(pictures), np.array(labels), CLASSES, rule)
