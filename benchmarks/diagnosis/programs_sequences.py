"""Programs on made sequences and texts."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from diagnosis.programs import CLASSES, TOKENS, L, Program, sequential


def text_average() -> Program:
    """Adam, the average of embedded tokens: which of two sets of words is more frequent."""
    rng = np.random.default_rng(21)
    x = rng.integers(1, 200, (1500, 16))
    y = ((x < 60).sum(axis=1) > (x > 140).sum(axis=1)).astype(np.int64)
    model = sequential(
        "text",
        (16,),
        L.Embedding(200, 16),
        L.GlobalAveragePooling1D(),
        L.Dense(16, "relu"),
        L.Dense(2, "softmax"),
        dtype="int64",
    )
    return Program(model, x, y, CLASSES, lambda f: keras.optimizers.Adam(1e-2 * f), TOKENS)


def small_transformer() -> Program:
    """Adam, one block of self-attention: the class is that of the largest marked element."""
    rng = np.random.default_rng(22)
    x = rng.normal(size=(1500, 10, 6)).astype(np.float32)
    y = np.take_along_axis(x[:, :, 1:4], x[:, :, 0].argmax(axis=1)[:, None, None], axis=1)
    first = keras.Input((10, 6))
    h = L.Dense(24)(first)
    z = L.LayerNormalization()(h)
    h = L.Add()([h, L.MultiHeadAttention(3, 8)(z, z)])
    z = L.Dense(48, "relu")(L.LayerNormalization()(h))
    h = L.GlobalMaxPooling1D()(L.Add()([h, L.Dense(24)(z)]))
    model = keras.Model(first, L.Dense(3, "softmax")(h), name="transformer")
    labels = y[:, 0].argmax(axis=1).astype(np.int64)
    return Program(model, x, labels, CLASSES, lambda f: keras.optimizers.Adam(2e-3 * f))


def count_gru() -> Program:
    """Adam with a clipped norm, a GRU that counts."""
    rng = np.random.default_rng(23)
    x = (rng.random((1500, 14, 2)) < 0.4).astype(np.float32)
    y = (x[:, :, 0].sum(axis=1, keepdims=True) - x[:, :, 1].sum(axis=1, keepdims=True)) / 3
    model = sequential("count", (14, 2), L.GRU(20), L.Dense(1))
    rule = lambda f: keras.optimizers.Adam(5e-3 * f, clipnorm=1.0)  # noqa: E731
    return Program(model, x, y.astype(np.float32), "mse", rule)


def tagging() -> Program:
    """Nadam, a bidirectional LSTM that gives every token a tag."""
    rng = np.random.default_rng(24)
    x = rng.integers(0, 40, (1500, 10))
    before = np.concatenate([np.zeros((1500, 1), np.int64), x[:, :-1]], axis=1)
    y = (x % 4 + (before > 20)) % 4
    model = sequential(
        "tagging",
        (10,),
        L.Embedding(40, 12),
        L.Bidirectional(L.LSTM(12, return_sequences=True)),
        L.Dense(4, "softmax"),
        dtype="int64",
    )
    rule = lambda f: keras.optimizers.Nadam(5e-3 * f)  # noqa: E731
    return Program(model, x, y, CLASSES, rule, TOKENS)


def ratings() -> Program:
    """Adagrad, products of embeddings of users and items: two inputs of ids."""
    rng = np.random.default_rng(25)
    user, item = rng.integers(0, 60, (2, 1600))
    tastes, kinds = rng.normal(size=(2, 60, 4))
    y = (tastes[user] * kinds[item]).sum(axis=1, keepdims=True) + 0.3 * rng.normal(size=(1600, 1))
    inputs = [keras.Input((1,), dtype="int64", name=name) for name in ("user", "item")]
    parts: list[Any] = [L.Flatten()(L.Embedding(60, 12)(one)) for one in inputs]
    h = L.Concatenate()([L.Multiply()(parts), *parts])
    model = keras.Model(inputs, L.Dense(1)(L.Dense(24, "relu")(h)), name="ratings")
    x = [user[:, np.newaxis], item[:, np.newaxis]]
    rule = lambda f: keras.optimizers.Adagrad(0.1 * f)  # noqa: E731
    return Program(model, x, y.astype(np.float32), "mse", rule, TOKENS)
