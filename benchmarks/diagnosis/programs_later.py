"""More programs in the style of tutorials and of other people's code, all of them held out."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from sklearn import datasets

from diagnosis.programs import CLASSES, TOKENS, L, Program, scaled, sequential


def reviews_bidirectional() -> Program:
    """Adam, a bidirectional LSTM over padded words, logits, half of a rule and half of chance."""
    rng = np.random.default_rng(61)
    count, length, words = 1800, 20, 120
    x = rng.integers(1, words, (count, length))
    sizes = rng.integers(8, length + 1, count)
    x[np.arange(length) >= sizes[:, np.newaxis]] = 0
    tone = rng.normal(0, 1, words)
    tone[0] = 0
    negated = np.isin(np.roll(x, 1, axis=1), np.arange(1, 12))  # a word such as "not" before it
    score = np.where(negated, -1, 1) * tone[x]
    y = (score.sum(axis=1) + rng.logistic(0, 0.3, count) > 0).astype(np.float32)[:, np.newaxis]
    model = sequential(
        "reviews",
        (length,),
        L.Embedding(words, 16, mask_zero=True),
        L.Bidirectional(L.LSTM(16, return_sequences=True)),
        L.GlobalAveragePooling1D(),
        L.Dropout(0.2),
        L.Dense(16, "relu"),
        L.Dense(1),
        dtype="int64",
    )
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    return Program(model, x, y, loss, lambda f: keras.optimizers.Adam(5e-3 * f), TOKENS)


def digits_denoise() -> Program:
    """RMSprop, strided and transposed convolutions that take the noise from digits."""
    images = (datasets.load_digits().images / 16).astype(np.float32)[..., np.newaxis]
    noise = np.random.default_rng(62).normal(0, 0.3, images.shape).astype(np.float32)
    model = sequential(
        "denoise",
        (8, 8, 1),
        L.Conv2D(12, 3, strides=2, padding="same"),
        L.LeakyReLU(),
        L.Conv2D(24, 3, strides=2, padding="same"),
        L.LeakyReLU(),
        L.Conv2DTranspose(12, 3, strides=2, padding="same", activation="relu"),
        L.Conv2DTranspose(12, 3, strides=2, padding="same", activation="relu"),
        L.Conv2D(1, 3, padding="same"),
    )
    x = np.clip(images + noise, 0, 1)
    return Program(model, x, images, "mse", lambda f: keras.optimizers.RMSprop(1e-3 * f))


def circuit_nadam() -> Program:
    """Nadam, four hidden layers with swish and a penalty on weights, mean absolute error."""
    x, y = datasets.make_friedman3(n_samples=1800, noise=0.05, random_state=63)
    decay = keras.regularizers.L2(1e-5)
    hidden = [L.Dense(40, "swish", kernel_regularizer=decay) for _ in range(4)]
    model = sequential("circuit", (4,), *hidden, L.Dense(1))
    target = scaled(y)[:, np.newaxis]
    return Program(model, scaled(x), target, "mae", lambda f: keras.optimizers.Nadam(2e-3 * f))


def beats_dilated() -> Program:
    """Adam, dilated causal convolutions with skips that label every moment of a made heart beat."""
    rng = np.random.default_rng(64)
    count, length = 1600, 40
    every, first = rng.integers(9, 14, count), rng.integers(0, 9, count)
    place = (np.arange(length) - first[:, np.newaxis]) % every[:, np.newaxis]
    y = np.select([place < 2, place < 5], [1, 2], 0)
    wave = np.select([y == 1, y == 2], [1.5, -0.6], 0.1)
    x = (wave + rng.normal(0, 0.5, wave.shape)).astype(np.float32)[..., np.newaxis]
    first_input = keras.Input((length, 1))
    h = L.Conv1D(16, 1)(first_input)
    for rate in (1, 2, 4, 8):
        z = L.Conv1D(16, 3, dilation_rate=rate, padding="causal", activation="tanh")(h)
        h = L.Add()([h, L.Conv1D(16, 1)(z)])
    model = keras.Model(first_input, L.Conv1D(3, 1)(L.ReLU()(h)), name="beats")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Program(model, x, y, loss, lambda f: keras.optimizers.Adam(3e-3 * f))


def genres() -> Program:
    """Nesterov's momentum, eight labels at once from a table, half of them rare."""
    rng = np.random.default_rng(65)
    x = rng.normal(0, 1, (1900, 30))
    first = np.tanh(x @ rng.normal(0, 0.4, (30, 12)))
    logits = first @ rng.normal(0, 1.5, (12, 8)) - np.array([0, 0, 0, 0, 2, 2, 3, 3])
    y = (logits + rng.logistic(0, 0.4, logits.shape) > 0).astype(np.float32)
    model = sequential(
        "genres",
        (30,),
        L.Dense(64, "elu", kernel_initializer="he_normal"),
        L.Dropout(0.1),
        L.Dense(32, "elu", kernel_initializer="he_normal"),
        L.Dense(8, "sigmoid"),
    )
    rule = lambda f: keras.optimizers.SGD(0.1 * f, momentum=0.9, nesterov=True)  # noqa: E731
    return Program(model, scaled(x), y, "binary_crossentropy", rule)


def shapes_inception() -> Program:
    """Adam with clipped norms, parallel convolutions on made pictures of four shapes."""
    rng = np.random.default_rng(66)
    count, size = 1600, 16
    y = rng.integers(0, 4, count)
    rows, columns = np.mgrid[0:size, 0:size]
    radius = rng.uniform(3, 6, (count, 1, 1))
    dy = rows - rng.uniform(6, 10, (count, 1, 1))
    dx = columns - rng.uniform(6, 10, (count, 1, 1))
    round_, square = np.hypot(dx, dy), np.maximum(np.abs(dx), np.abs(dy))
    drawn = np.stack(
        [
            round_ < radius,
            square < radius * 0.85,
            np.abs(round_ - radius) < 1,
            np.minimum(np.abs(dx), np.abs(dy)) < 1.2,
        ],
        axis=1,
    )[np.arange(count), y]
    x = (drawn * rng.uniform(0.5, 1, (count, 1, 1)) + rng.normal(0, 0.25, drawn.shape))[..., None]
    first = keras.Input((size, size, 1))
    h = first
    for filters in (6, 10):
        towers: list[Any] = [
            L.Conv2D(filters, kernel, padding="same", activation="relu")(h) for kernel in (1, 3, 5)
        ]
        h = L.MaxPooling2D(2)(L.Concatenate()(towers))
    h = L.Dropout(0.3)(L.Flatten()(h))
    model = keras.Model(first, L.Dense(4, "softmax")(L.Dense(32, "relu")(h)), name="shapes")
    rule = lambda f: keras.optimizers.Adam(1e-3 * f, clipnorm=1.0)  # noqa: E731
    return Program(model, x.astype(np.float32), y, CLASSES, rule)


def prices_mixed() -> Program:
    """Adam with weight averages, two columns of ids and six numbers, targets in log-cosh."""
    rng = np.random.default_rng(71)
    count = 1900
    town, kind = rng.integers(0, 25, count), rng.integers(0, 6, count)
    numbers = rng.normal(0, 1, (count, 6))
    size = np.exp(0.4 * numbers[:, 0])
    worth = rng.normal(0, 0.6, 25)[town] + np.array([-0.8, -0.3, 0.0, 0.2, 0.5, 0.9])[kind]
    worth += (
        np.log(size) * (1 + 0.3 * (kind > 2)) - 0.3 * np.abs(numbers[:, 1]) + 0.2 * numbers[:, 2]
    )
    y = scaled(worth + rng.normal(0, 0.2, count))[:, np.newaxis]
    inputs = [
        keras.Input((1,), dtype="int64", name="town"),
        keras.Input((1,), dtype="int64", name="kind"),
        keras.Input((6,), name="numbers"),
    ]
    parts = [
        L.Flatten()(L.Embedding(size_of, 8)(one))
        for size_of, one in zip((25, 6), inputs[:2], strict=True)
    ]
    h = L.Concatenate()([*parts, L.LayerNormalization()(inputs[2])])
    for units in (64, 32):
        h = L.Dropout(0.05)(L.Dense(units, "gelu")(h))
    model = keras.Model(inputs, L.Dense(1)(h), name="prices")
    x = [town[:, np.newaxis], kind[:, np.newaxis], numbers.astype(np.float32)]
    rule = lambda f: keras.optimizers.Adam(3e-3 * f, use_ema=True)  # noqa: E731
    return Program(model, x, y, "log_cosh", rule)


def bells_conv_gru() -> Program:
    """RMSprop with momentum, a strided convolution and a GRU that tell made sounds apart."""
    rng = np.random.default_rng(72)
    count, length = 1600, 64
    y = rng.integers(0, 5, count)
    at = np.arange(length)
    pitch = np.array([0.25, 0.4, 0.4, 0.7, 0.7])[y] * rng.uniform(0.95, 1.05, count)
    decay = np.array([0.02, 0.02, 0.08, 0.02, 0.08])[y] * rng.uniform(0.8, 1.2, count)
    wave = np.sin(pitch[:, np.newaxis] * at + rng.uniform(0, 2 * np.pi, (count, 1)))
    x = wave * np.exp(-decay[:, np.newaxis] * at) + rng.normal(0, 0.15, (count, length))
    model = sequential(
        "bells",
        (length, 1),
        L.Conv1D(16, 8, strides=2, padding="same", activation="relu"),
        L.Conv1D(24, 4, strides=2, padding="same", activation="relu"),
        L.GRU(24),
        L.Dense(24, "relu"),
        L.Dense(5),
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rule = lambda f: keras.optimizers.RMSprop(2e-3 * f, momentum=0.5)  # noqa: E731
    return Program(model, x.astype(np.float32)[..., np.newaxis], y, loss, rule)


def textures_residual() -> Program:
    """AdamW, a residual network that normalises before each convolution, on made textures."""
    rng = np.random.default_rng(73)
    count, size = 1500, 12
    y = rng.integers(0, 4, count)
    rows, columns = np.mgrid[0:size, 0:size]
    angle = np.array([0.0, 0.25, 0.5, 0.75])[y] * np.pi + rng.normal(0, 0.08, count)
    along = np.cos(angle)[:, None, None] * rows + np.sin(angle)[:, None, None] * columns
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    x = np.sin(1.3 * along + phase) + rng.normal(0, 0.5, (count, size, size))
    first = keras.Input((size, size, 1))
    h = L.Conv2D(12, 3, padding="same", use_bias=False)(first)
    for filters, strides in ((12, 1), (24, 2)):
        z = L.ReLU()(L.BatchNormalization()(h))
        short = h if strides == 1 else L.Conv2D(filters, 1, strides=strides)(z)
        z = L.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(z)
        z = L.ReLU()(L.BatchNormalization()(z))
        h = L.Add()([short, L.Conv2D(filters, 3, padding="same", use_bias=False)(z)])
    h = L.GlobalAveragePooling2D()(L.ReLU()(L.BatchNormalization()(h)))
    model = keras.Model(first, L.Dense(4, "softmax")(h), name="textures")
    rule = lambda f: keras.optimizers.AdamW(2e-3 * f, weight_decay=1e-3)  # noqa: E731
    return Program(model, x.astype(np.float32)[..., np.newaxis], y, CLASSES, rule)
