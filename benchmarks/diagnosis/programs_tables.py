"""Programs on tables, and one of two networks against each other."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn import datasets

from diagnosis.programs import CLASSES, L, Program, scaled, sequential


def iris() -> Program:
    """Plain SGD, one hidden layer."""
    data = datasets.load_iris()
    model = sequential("iris", (4,), L.Dense(16, "softplus"), L.Dense(3, "softmax"))
    rule = lambda f: keras.optimizers.SGD(0.2 * f)  # noqa: E731
    return Program(model, scaled(data.data), data.target, CLASSES, rule)


def rings() -> Program:
    """Adagrad, two rings that a tanh network tells apart, as logits."""
    x, y = datasets.make_circles(1500, noise=0.08, factor=0.5, random_state=3)
    model = sequential("rings", (2,), L.Dense(24, "tanh"), L.Dense(24, "tanh"), L.Dense(1))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    rule = lambda f: keras.optimizers.Adagrad(0.1 * f)  # noqa: E731
    y = y.astype(np.float32)[:, np.newaxis]
    return Program(model, scaled(x), y, loss, rule, frozenset({"wrong_output"}))


def friedman() -> Program:
    """Adam, a smooth regression with five inputs of ten that matter."""
    x, y = datasets.make_friedman1(1600, noise=0.5, random_state=4)
    model = sequential("friedman", (10,), L.Dense(48, "relu"), L.Dense(24, "relu"), L.Dense(1))
    y = scaled(y[:, np.newaxis])
    return Program(model, scaled(x), y, "mse", lambda f: keras.optimizers.Adam(5e-3 * f))


def imbalanced() -> Program:
    """Adamax, one class in twenty."""
    x, y = datasets.make_classification(
        1800, 12, n_informative=8, weights=[0.95], class_sep=1.6, random_state=5
    )
    model = sequential("imbalanced", (12,), L.Dense(32, "relu"), L.Dense(2, "softmax"))
    rule = lambda f: keras.optimizers.Adamax(1e-2 * f)  # noqa: E731
    return Program(model, scaled(x), y, CLASSES, rule)


def robust() -> Program:
    """Lion, a regression by the absolute error, with long tails."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(1600, 8)).astype(np.float32)
    y = np.sin(x[:, :1]) + 0.5 * x[:, 1:2] + 0.1 * rng.standard_t(2, (1600, 1))
    model = sequential("robust", (8,), L.Dense(32, "swish"), L.Dense(16, "swish"), L.Dense(1))
    rule = lambda f: keras.optimizers.Lion(1e-3 * f)  # noqa: E731
    return Program(model, x, y.astype(np.float32), "mae", rule)


def normalised() -> Program:
    """Momentum, dense layers with batch normalisation and dropout on many classes."""
    x, y = datasets.make_classification(
        1800, 20, n_informative=12, n_classes=6, n_clusters_per_class=1, random_state=7
    )
    layers: list[Any] = []
    for units in (48, 32):
        layers += [L.Dense(units), L.BatchNormalization(), L.Activation("relu"), L.Dropout(0.1)]
    model = sequential("normalised", (20,), *layers, L.Dense(6, "softmax"))
    rule = lambda f: keras.optimizers.SGD(0.05 * f, momentum=0.9)  # noqa: E731
    return Program(model, scaled(x), y, CLASSES, rule)


def gan() -> Program:
    """Adam for each of two networks: a generator of points on a ring, and its critic."""
    rng = np.random.default_rng(8)
    angle = rng.uniform(0, 2 * np.pi, 1600)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    makes = sequential("makes", (4,), L.Dense(24, "relu"), L.Dense(2))
    tells = sequential("tells", (2,), L.Dense(24, "relu"), L.Dense(1))
    noise = rng.normal(size=(len(x), 4)).astype(np.float32)
    only_sudden = frozenset(
        {"labels_wrong", "labels_shuffled", "sorted", "wrong_output", "uphill", "zero_head"}
        | {"rate_high", "rate_low", "inputs_raw", "init_zero", "init_huge", "adadelta"}
    )
    adam = lambda f: keras.optimizers.Adam(2e-3 * f)  # noqa: E731
    return Program(tells, x, noise, "", adam, only_sudden, lambda *a: _compete(makes, *a))


def _compete(
    makes: Any, program: Program, optimizer: Any, batches: Any, between: Any, tracer: Any
) -> None:
    """Train both networks, a step of each for every batch."""
    tells = program.model
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    other = optimizer.from_config(optimizer.get_config())
    optimizer.build(tells.trainable_weights)
    other.build(makes.trainable_weights)

    @tf.function  # type: ignore[untyped-decorator]
    def step(batch: Any) -> Any:
        real, noise = batch
        with tf.GradientTape(persistent=True) as tape:
            made = makes(noise, training=True)
            on_real, on_made = tells(real, training=True), tells(made, training=True)
            critic = loss(tf.ones_like(on_real), on_real) + loss(tf.zeros_like(on_made), on_made)
            maker = loss(tf.ones_like(on_made), on_made)
        optimizer.apply(tape.gradient(critic, tells.trainable_weights), tells.trainable_weights)
        other.apply(tape.gradient(maker, makes.trainable_weights), makes.trainable_weights)
        return critic

    with tracer:
        wrapped = tracer.wrap(step, models=[tells, makes], optimizers=[optimizer, other])
        for number, batch in enumerate(batches):
            between(number, tells, optimizer)
            wrapped(tuple(map(tf.constant, batch)))
