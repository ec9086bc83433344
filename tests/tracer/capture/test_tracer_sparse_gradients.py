"""Gradients of a vocabulary of a million words, which nobody has asked to be made dense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr

from steptrace_schema.validate import validate
from steptrace_tracer import Tracer
from steptrace_tracer.capture import gradients
from steptrace_tracer.capture.traced_step import TracedStep

if TYPE_CHECKING:
    from pathlib import Path

WORDS, WIDTH = 1_000_000, 64
PATH = "words/embedding/embeddings"


def model(words: int, width: int) -> Any:
    made = keras.Sequential(
        [
            keras.Input((2,), dtype="int32"),
            keras.layers.Embedding(words, width, embeddings_initializer="zeros", name="embedding"),
            keras.layers.Flatten(),
            keras.layers.Dense(1, name="out"),
        ],
        name="words",
    )
    made.compile("sgd", "mse", jit_compile=False)
    return made


def of_rows(rows: list[list[int]]) -> tuple[Any, Any]:
    return np.array(rows, np.int32), np.ones((len(rows), 1), np.float32)


def largest(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the elements of the largest tensor that each step returns beside its result."""
    found: list[int] = []
    call = TracedStep._call

    def noting(self: TracedStep, args: Any, kwargs: Any) -> Any:
        result, tensors = call(self, args, kwargs)
        found.append(max(int(tf.size(tensor)) for tensor in tensors.values()))
        return result, tensors

    monkeypatch.setattr(TracedStep, "_call", noting)
    return found


def reasons(path: Path) -> dict[str, str]:
    group: Any = zarr.open_group(path, mode="r")
    return {
        f"{entry['kind']}/{entry['path']}": entry["reason"]
        for entry in group.attrs["steptrace"]["missing"]
    }


def test_the_gradient_of_a_million_words_says_missing_and_is_never_made_dense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sizes = tmp_path / "run.zarr", largest(monkeypatch)
    x, y = of_rows([[0, WORDS - 1], [5, 5]])
    kinds = ("gradients", "activations", "activation_gradients")
    tracer = Tracer(path, kinds=kinds, on_error="raise", progress=False)
    model(WORDS, WIDTH).fit(x, y, batch_size=1, verbose=0, callbacks=[tracer])
    assert validate(path) == []
    assert "very large weight" in reasons(path)[f"gradients/{PATH}"]
    group: Any = zarr.open_group(path, mode="r")
    assert group["gradients/words/out/kernel"].shape == (2, 2 * WIDTH, 1)
    assert max(sizes) <= 2 * WIDTH
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 300_000


@pytest.mark.parametrize("compiled", [True, False])
def test_rows_that_an_optimizer_is_given_are_not_made_dense_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    monkeypatch.setattr(gradients, "_SPARSE_LIMIT", 50)
    made, path, sizes = model(20, 4), tmp_path / "run.zarr", largest(monkeypatch)

    def step(x: Any) -> Any:
        table, kernel = made.layers[0].embeddings, made.layers[-1].kernel
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(made(x))
        rows = tf.IndexedSlices(tf.ones((2, 4)), x[0], tf.constant([20, 4]))
        made.optimizer.apply([rows, tape.gradient(loss, kernel)], [table, kernel])
        return loss

    run = tf.function(step) if compiled else step
    made.optimizer.build([made.layers[0].embeddings, made.layers[-1].kernel])
    with Tracer(path, kinds=("gradients",), on_error="raise", progress=False) as tracer:
        wrapped = tracer.wrap(run, models=[made], optimizers=[made.optimizer])
        for _ in range(2):
            wrapped(tf.constant([[3, 7]]))
    assert "very large weight" in reasons(path)[f"gradients/{PATH}"]
    assert max(sizes) < 20 * 4
    expected = np.zeros((20, 4), np.float32)
    expected[[3, 7]] = -2 * 0.01
    np.testing.assert_allclose(np.asarray(made.layers[0].embeddings), expected, rtol=1e-6)
