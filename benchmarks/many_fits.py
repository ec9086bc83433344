"""Many fits of one batch, as in reinforcement learning: what the tracer adds to each.

``python benchmarks/many_fits.py [FITS]`` trains a small network with and without the tracer, in
turn, in one process, and prints seconds and their ratio.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from steptrace_tracer import Tracer

BATCH = 16
REPEATS = 2


def network() -> Any:
    """Return a network with a compiled loss and Adam."""
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [keras.Input((64,)), layers.Dense(32, activation="relu"), layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    return model


def train(fits: int, callbacks: list[Any]) -> tuple[float, list[float], Any]:
    """Return the seconds of all fits, those of each, and the trained network."""
    rng = np.random.default_rng(0)
    x, y = rng.random((fits * BATCH, 64), np.float32), rng.integers(0, 10, fits * BATCH)
    model, each = network(), []
    begin = time.perf_counter()
    for i in range(0, fits * BATCH, BATCH):
        start = time.perf_counter()
        model.fit(
            x[i : i + BATCH],
            y[i : i + BATCH],
            batch_size=BATCH,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
        each.append(time.perf_counter() - start)
    return time.perf_counter() - begin, each, model


def main() -> None:
    """Train, and print what it took."""
    fits = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    train(2, [])  # whatever TensorFlow does once in a process
    for number in range(REPEATS):
        untraced, each_untraced, plain = train(fits, [])
        with tempfile.TemporaryDirectory() as folder:
            tracer = Tracer(Path(folder) / "run.zarr", progress=False)
            traced, each, model = train(fits, [tracer])
            tracer.close()
        same = all(
            np.array_equal(one, other)
            for one, other in zip(plain.get_weights(), model.get_weights(), strict=True)
        )
        print(
            f"{number + 1}: {fits} fits untraced {untraced:.1f} s, traced {traced:.1f} s, ratio "
            f"{traced / untraced:.2f}; first {each[0]:.2f} s, second {each[1]:.2f} s, median "
            f"{statistics.median(each) * 1e3:.0f} ms (untraced "
            f"{statistics.median(each_untraced) * 1e3:.0f} ms); weights equal: {same}"
        )


if __name__ == "__main__":
    main()
