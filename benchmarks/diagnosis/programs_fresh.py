"""Programs in the style of tutorials and notebooks, all of them held out."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from sklearn import datasets

from diagnosis.mutations import STEPS
from diagnosis.programs import CLASSES, L, Program, scaled, sequential


def _distance(vectors: list[Any]) -> Any:
    """Return the Euclidean distance of each pair of vectors."""
    x, y = vectors
    square = keras.ops.sum(keras.ops.square(x - y), axis=1, keepdims=True)
    return keras.ops.sqrt(keras.ops.maximum(square, keras.backend.epsilon()))


def _contrastive(y_true: Any, y_pred: Any) -> Any:
    """Return the contrastive loss with a margin of 1, where 1 is a pair of two classes."""
    apart = keras.ops.square(keras.ops.maximum(1.0 - y_pred, 0.0))
    return keras.ops.mean((1.0 - y_true) * keras.ops.square(y_pred) + y_true * apart)


def digits_siamese() -> Program:
    """RMSprop, a siamese network with a contrastive loss on pairs of digits."""
    data = datasets.load_digits()
    x = (data.images / 16).astype(np.float32)[..., np.newaxis]
    rng = np.random.default_rng(51)
    pairs, labels = [], []
    for number, kind in enumerate(data.target):
        same = rng.choice(np.flatnonzero(data.target == kind))
        other = rng.choice(np.flatnonzero(data.target != kind))
        pairs += [(number, same), (number, other)]
        labels += [0.0, 1.0]
    left, right = np.array(pairs).T
    tower = sequential(
        "tower",
        (8, 8, 1),
        L.BatchNormalization(),
        L.Conv2D(8, 3, activation="tanh"),
        L.AveragePooling2D(2),
        L.Conv2D(16, 2, activation="tanh"),
        L.BatchNormalization(),
        L.Flatten(),
        L.Dense(10, "tanh"),
    )
    inputs = [keras.Input((8, 8, 1), name=name) for name in ("left", "right")]
    last = L.Lambda(_distance, output_shape=(1,))([tower(one) for one in inputs])
    model = keras.Model(inputs, last, name="siamese")
    y = np.array(labels, dtype=np.float32)[:, np.newaxis]
    rule = lambda f: keras.optimizers.RMSprop(2e-3 * f)  # noqa: E731
    one_tower = frozenset({"wrong_output", "zero_head", "frozen_first", "cut"})  # it has no head
    return Program(model, [x[left], x[right]], y, _contrastive, rule, one_tower)


def activity_conv() -> Program:
    """Adam, one-dimensional convolutions with spatial dropout on windows of six made sensors."""
    rng = np.random.default_rng(52)
    count, length = 1800, 48
    y = rng.integers(0, 6, count)
    speed = np.array([0.0, 0.0, 0.5, 0.8, 0.8, 1.2])[y] * rng.uniform(0.9, 1.1, count)
    strength = np.array([0.0, 0.0, 0.6, 0.8, 1.4, 2.0])[y] * rng.uniform(0.8, 1.2, count)
    tilt = np.array([0.0, 0.9, 0.1, 0.1, 0.4, 0.2])[y] + rng.normal(0, 0.15, count)
    at = np.arange(length) * speed[:, np.newaxis] + rng.uniform(0, 2 * np.pi, (count, 1))
    wave = strength[:, np.newaxis] * np.sin(at)
    twice = strength[:, np.newaxis] * np.sin(2 * at)
    still = np.ones((1, length))
    acceleration = [
        np.cos(tilt)[:, np.newaxis] * still + 0.5 * twice,
        np.sin(tilt)[:, np.newaxis] * still + 0.3 * wave,
        0.4 * wave,
    ]
    turning = [0.6 * np.cos(at) * strength[:, np.newaxis], 0.2 * twice, 0.1 * wave]
    x = np.stack([*acceleration, *turning], axis=2)
    x = (x + rng.normal(0, 0.4, x.shape)).astype(np.float32)
    model = sequential(
        "activity",
        (length, 6),
        L.Conv1D(24, 5, activation="relu"),
        L.SpatialDropout1D(0.2),
        L.Conv1D(24, 5, activation="relu"),
        L.SpatialDropout1D(0.2),
        L.GlobalMaxPooling1D(),
        L.Dense(32, "relu"),
        L.Dense(6, "softmax"),
    )
    return Program(model, x, y, CLASSES, lambda f: keras.optimizers.Adam(2e-3 * f))


def demand_gru() -> Program:
    """Adam with a rate that decays, a GRU that forecasts the next hour; the loss is Huber's."""
    rng = np.random.default_rng(53)
    hour = np.arange(1700)
    noise = np.zeros(len(hour))
    for at in hour[1:]:
        noise[at] = 0.8 * noise[at - 1] + rng.normal(0, 1.5)
    day, week = 2 * np.pi * hour / 24, 2 * np.pi * hour / 168
    demand = 50 + 0.005 * hour + 12 * np.sin(day) + 5 * np.sin(2 * day + 1) + 4 * np.cos(week)
    demand += noise + 25 * (rng.random(len(hour)) < 0.01)  # a few hours are far off
    table = np.stack([scaled(demand), np.sin(day), np.cos(day)], axis=1).astype(np.float32)
    length = 24
    x = np.stack([table[i : i + length] for i in range(len(table) - length)])
    model = sequential("demand", (length, 3), L.GRU(24), L.Dropout(0.1), L.Dense(1))

    def rule(factor: float) -> Any:
        decay = keras.optimizers.schedules.ExponentialDecay(5e-3 * factor, 100, 0.8)
        return keras.optimizers.Adam(decay)

    return Program(model, x, table[length:, :1], keras.losses.Huber(), rule)


def income_wide_deep() -> Program:
    """Adam, a wide and a deep path for two columns of ids and five of numbers."""
    rng = np.random.default_rng(54)
    count = 2000
    job, school = rng.integers(0, 15, count), rng.integers(0, 10, count)
    numbers = np.stack(
        [
            rng.uniform(18, 75, count),
            rng.normal(40, 10, count),
            np.log1p(rng.exponential(800, count) * (rng.random(count) < 0.2)),
            rng.integers(0, 5, count),
            rng.normal(0, 1, count),
        ],
        axis=1,
    )
    numbers = scaled(numbers)
    pays = rng.normal(0, 1.2, 15)
    logit = pays[job] + 0.4 * (school - 4.5) + 0.8 * numbers[:, 1] + 0.7 * numbers[:, 2]
    logit += 0.3 * pays[job] * (school - 4.5) - 0.6 * numbers[:, 0] ** 2 - 1
    y = (logit + rng.logistic(0, 0.5, count) > 0).astype(np.float32)[:, np.newaxis]
    inputs = [
        keras.Input((1,), dtype="int64", name="job"),
        keras.Input((1,), dtype="int64", name="school"),
        keras.Input((5,), name="numbers"),
    ]
    sizes = (15, 10)
    wide = [
        L.CategoryEncoding(size, output_mode="one_hot")(one)
        for size, one in zip(sizes, inputs[:2], strict=True)
    ]
    embedded = [
        L.Flatten()(L.Embedding(size, 6)(one)) for size, one in zip(sizes, inputs[:2], strict=True)
    ]
    deep = L.Concatenate()([*embedded, inputs[2]])
    for units in (48, 24):
        deep = L.ReLU()(L.BatchNormalization()(L.Dense(units)(deep)))
        deep = L.Dropout(0.1)(deep)
    merged = L.Concatenate()([*wide, inputs[2], deep])
    model = keras.Model(inputs, L.Dense(1, "sigmoid")(merged), name="wide_deep")
    x = [job[:, np.newaxis], school[:, np.newaxis], numbers]
    return Program(model, x, y, "binary_crossentropy", lambda f: keras.optimizers.Adam(2e-3 * f))


def digits_squeeze() -> Program:
    """AdamW with a cosine decay, separable convolutions with squeeze and excitation.

    Its targets are one-hot, and smoothed by the loss.
    """
    data = datasets.load_digits()
    x = (data.images / 16).astype(np.float32)[..., np.newaxis]
    first = keras.Input((8, 8, 1))
    h = L.Conv2D(12, 3, padding="same", use_bias=False)(first)
    h = L.Activation("relu")(L.BatchNormalization()(h))
    for filters in (16, 24):
        h = L.SeparableConv2D(filters, 3, padding="same", use_bias=False)(h)
        h = L.Activation("relu")(L.BatchNormalization()(h))
        gate = L.Dense(filters // 4, "relu")(L.GlobalAveragePooling2D()(h))
        gate = L.Reshape((1, 1, filters))(L.Dense(filters, "sigmoid")(gate))
        h = L.MaxPooling2D(2)(L.Multiply()([h, gate]))
    h = L.Dropout(0.2)(L.GlobalAveragePooling2D()(h))
    model = keras.Model(first, L.Dense(10, "softmax")(h), name="squeeze")

    def rule(factor: float) -> Any:
        decay = keras.optimizers.schedules.CosineDecay(1e-2 * factor, STEPS)
        return keras.optimizers.AdamW(decay, weight_decay=1e-4)

    y = keras.utils.to_categorical(data.target, 10).astype(np.float32)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    return Program(model, x, y, loss, rule, frozenset({"labels_wrong"}))  # 1 - y is no label
