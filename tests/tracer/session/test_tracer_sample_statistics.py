"""The statistics of every sample of every batch, as trainings record them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_models import weights_of
from steptrace_analyzer import diagnose, open_trace
from steptrace_analyzer.trace.sample_statistics import sample_statistics
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

SIZES = ("rms", "mean", "largest", "nan", "inf")


def expected_of(x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return what NumPy says of each sample, dims (batch, statistic)."""
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    rows = [np.sqrt((flat**2).mean(axis=1)), flat.mean(axis=1), np.abs(flat).max(axis=1)]
    return np.stack([*rows, np.isnan(flat).sum(axis=1), np.isinf(flat).sum(axis=1)], axis=1)


def data() -> tuple[npt.NDArray[Any], ...]:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(20, 4, 3)).astype(np.float32)
    words = rng.integers(0, 7, (20, 5)).astype(np.int32)
    return image, words, rng.integers(0, 3, 20), rng.normal(size=(20, 2)).astype(np.float32)


def build(*, eager: bool, jit: bool = False) -> Any:
    keras.utils.set_random_seed(5)
    image, words = keras.Input((4, 3), name="image"), keras.Input((5,), name="words", dtype="int32")
    both = layers.Concatenate()(
        [layers.Flatten()(image), layers.Flatten()(layers.Embedding(7, 2)(words))]
    )
    outputs = {
        "label": layers.Dense(3, activation="softmax", name="label")(both),
        "size": layers.Dense(2, name="size")(both),
    }
    model = keras.Model({"image": image, "words": words}, outputs)
    losses = {"label": "sparse_categorical_crossentropy", "size": "mse"}
    model.compile("adam", losses, run_eagerly=eager, jit_compile=jit)
    return model


@pytest.mark.sampled(1)
@pytest.mark.parametrize("way", ["inside", "beside", "eager", "jit"])
def test_every_sample_of_every_batch_has_its_statistics(tmp_path: Path, way: Any) -> None:
    image, words, label, size = data()

    def train(callbacks: list[Any]) -> Any:
        model = build(eager=way == "eager", jit=way == "jit")
        model.fit(
            {"image": image, "words": words},
            {"label": label, "size": size},
            batch_size=8,  # the last batch has four samples
            shuffle=False,
            epochs=2,
            verbose=0,
            callbacks=callbacks,
        )
        return model

    path = tmp_path / "run.zarr"
    capture: Any = way if way in ("inside", "beside") else "auto"
    traced = train([Tracer(path, on_error="raise", progress=False, samples=2, capture=capture)])
    for left, right in zip(weights_of(train([])), weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()
    assert validate(path) == []
    table = sample_statistics(open_trace(path))
    assert table is not None
    assert table.dims == ("step", "batch", "statistic")
    assert table.shape[:2] == (6, 8)
    for step in range(6):
        rows = slice(step % 3 * 8, min(step % 3 * 8 + 8, 20))
        count = rows.stop - rows.start
        own = table.sel(step=step)
        for name, values in (("x_image", image), ("y_size", size)):
            found = own.sel(statistic=[f"{name}/{each}" for each in SIZES])
            np.testing.assert_allclose(found[:count], expected_of(values[rows]), rtol=1e-12)
            assert np.isnan(found[count:]).all()
        ends = np.stack([words[rows].min(axis=1), words[rows].max(axis=1)], axis=1)
        of_words = own.sel(statistic=["x_words/min", "x_words/max"])
        assert np.asarray(of_words[:count]).tolist() == ends.tolist()
        category = own.sel(statistic="y_label/category")
        assert np.asarray(category[:count]).tolist() == label[rows].tolist()


def test_a_step_that_finds_its_batch_itself_has_statistics_of_it(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((x, x[:, :2])).batch(4)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    optimizer = keras.optimizers.SGD(0.1)

    @tf.function  # type: ignore[untyped-decorator]
    def train_step(iterator: Any) -> Any:
        xs, ys = next(iterator)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(xs, training=True) - ys))
        optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
        return loss

    with Tracer(tmp_path / "run.zarr", on_error="raise", progress=False) as tracer:
        step, iterator = tracer.wrap(train_step), iter(dataset)
        for _ in range(3):
            step(iterator)
    table = sample_statistics(open_trace(tmp_path / "run.zarr"))
    assert table is not None
    found = table.sel(statistic=[f"x/{each}" for each in SIZES])
    np.testing.assert_allclose(np.asarray(found).reshape(12, 5), expected_of(x), rtol=1e-12)


def test_a_policy_leaves_the_statistics_of_samples_out(tmp_path: Path) -> None:
    image, words, label, size = data()
    tracer = Tracer(
        tmp_path / "run.zarr", on_error="raise", progress=False, sample_statistics=False
    )
    build(eager=False).fit(
        {"image": image, "words": words},
        {"label": label, "size": size},
        verbose=0,
        callbacks=[tracer],
    )
    trace = open_trace(tmp_path / "run.zarr")
    assert sample_statistics(trace) is None
    assert "sample_digest" in trace["inputs"]


def test_the_one_row_of_a_batch_that_is_out_of_scale_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60 * 32, 4)).astype(np.float32)
    y = x[:, :1] * 0.5
    x[40 * 32 + 20] *= 5000.0  # none of the four rows that are recorded
    x[50 * 32 + 9, 1] = np.nan
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1e-9), "mse")
    tracer = Tracer(tmp_path / "run.zarr", on_error="raise", progress=False)
    model.fit(x, y, batch_size=32, shuffle=False, verbose=0, callbacks=[tracer])
    found = diagnose(open_trace(tmp_path / "run.zarr"), rules=["bad_batch", "non_finite"]).findings
    (batch,) = [f for f in found if f.rule == "bad_batch" and f.tensor == "inputs/x"]
    assert (batch.first_step, batch.evidence["rows"]) == (40, [20])
    assert "because of row 20" in batch.explanation
    size = float(np.sqrt((x[40 * 32 : 41 * 32].astype(np.float64) ** 2).mean()))
    assert batch.observed == pytest.approx(size)
    assert "in all rows" in batch.explanation
    bad = next(f for f in found if f.rule == "non_finite")
    assert (bad.first_step, bad.tensor, bad.cause_kind) == (50, "inputs/x", "data")
    assert bad.evidence["rows"] == [9]
    assert "in row 9 of the batch" in bad.cause


def test_a_label_that_is_no_class_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(10 * 16, 4)).astype(np.float32), rng.integers(0, 3, 10 * 16)
    y[7 * 16 + 11] = 3
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=True)
    tracer = Tracer(tmp_path / "run.zarr", on_error="raise", progress=False)
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0, callbacks=[tracer])
    found = diagnose(open_trace(tmp_path / "run.zarr"), rules=["non_finite"]).findings[0]
    assert (found.first_step, found.evidence["rows"]) == (7, [11])
    assert "its label is 3, and the model has 3 classes, 0 to 2" in found.cause
