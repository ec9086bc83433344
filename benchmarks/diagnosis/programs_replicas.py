"""Programs that train on two replicas: two logical devices of the processor."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn import datasets

from diagnosis.mutations import FIRST
from diagnosis.mutations_rules import MORE
from diagnosis.programs import CLASSES, L, Program, sequential

_processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    _processor, [tf.config.LogicalDeviceConfiguration(), tf.config.LogicalDeviceConfiguration()]
)  # before TensorFlow computes anything


_TRAINED = {"none", "clipped", "warm_up", "restarts", "rate_drop", "rate_low", "replica_off"}
_NOT_FOR = frozenset({*FIRST, *MORE} - _TRAINED)  # collectives of many models get mixed up


@functools.cache
def _strategy() -> Any:
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def digits_replicas() -> Program:
    """Adam, dense layers on digits."""
    data = datasets.load_digits()
    strategy = _strategy()
    with strategy.scope():
        model = sequential(
            "replicas", (64,), L.Dense(48, "relu"), L.Dense(32, "relu"), L.Dense(10, "softmax")
        )
    x = (data.data / 16).astype(np.float32)
    rule = lambda f: keras.optimizers.Adam(3e-3 * f)  # noqa: E731
    return Program(model, x, data.target, CLASSES, rule, _NOT_FOR, strategy=strategy)


def waves_replicas() -> Program:
    """Momentum, one-dimensional convolutions that tell a wave's frequency."""
    rng = np.random.default_rng(41)
    y = rng.integers(0, 4, 1500)
    at = np.arange(24)[np.newaxis] * (1 + y[:, np.newaxis]) / 4 + rng.uniform(0, 6, (1500, 1))
    x = (np.sin(at) + rng.normal(0, 0.3, at.shape)).astype(np.float32)[..., np.newaxis]
    strategy = _strategy()
    with strategy.scope():
        model = sequential(
            "waves",
            (24, 1),
            L.Conv1D(16, 5, activation="tanh"),
            L.Conv1D(16, 5, activation="tanh"),
            L.GlobalMaxPooling1D(),
            L.Dense(4, "softmax"),
        )
    rule = lambda f: keras.optimizers.SGD(0.05 * f, momentum=0.9)  # noqa: E731
    return Program(model, x, y, CLASSES, rule, _NOT_FOR, strategy=strategy)
