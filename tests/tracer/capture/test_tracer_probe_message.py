"""What a model says when the probe cannot call it is in the trace, all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
import zarr

from keras_models import vectors
from steptrace_tracer import Policy, Tracer

if TYPE_CHECKING:
    from pathlib import Path


class OnlyTrained(keras.layers.Layer):  # type: ignore[misc]
    """Refuses to be called in inference mode, with a message of several lines."""

    def call(self, x: Any, training: bool | None = None) -> Any:
        if training is False:
            msg = f"the first line\n\tand what\x1b[31m to do\x07: {'word ' * 2000}"
            raise RuntimeError(msg)
        return x


def test_the_message_of_a_model_that_cannot_be_probed_is_kept_whole(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), OnlyTrained(), keras.layers.Dense(2)], name="net")
    model.compile("sgd", "mse", run_eagerly=True)
    x, y = vectors(8)
    tracer = Tracer(tmp_path / "run.zarr", on_error="raise", progress=False)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[tracer])
    group: Any = zarr.open_group(tmp_path / "run.zarr", mode="r")
    (entry,) = [e for e in group.attrs["steptrace"]["missing"] if e["kind"] == "probe"]
    reason = entry["reason"]
    begin = "the model cannot be called with the batch (RuntimeError: "
    assert reason.startswith(begin)
    assert "the first line and what to do\\x07: word word" in reason
    assert reason.endswith("…); give Tracer(probe=...)")
    assert reason.isprintable()
    assert 1900 < len(reason) < 2100


def test_inputs_that_the_model_refuses_are_no_reason_to_stop_recording(tmp_path: Path) -> None:
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, activation="relu", name="dense")], name="net"
    )
    model.compile("sgd", "mse", run_eagerly=True)
    x, y = vectors(8)
    wide = np.zeros((4, 5), np.float32)
    tracer = Tracer(tmp_path / "run.zarr", probe=wide, on_error="raise", progress=False)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[tracer])
    group: Any = zarr.open_group(tmp_path / "run.zarr", mode="r")
    (entry,) = [e for e in group.attrs["steptrace"]["missing"] if e["kind"] == "probe"]
    assert entry["reason"].startswith("the model cannot be called with the inputs of the probe (")
    assert "shape" in entry["reason"]
    assert np.asarray(group["weights/net/dense/kernel"]).shape == (3, 3, 2)


def reasons(group: Any) -> dict[str, str]:
    """Return what is missing in a trace, ``kind/path``, and why."""
    entries = group.attrs["steptrace"]["missing"]
    return {f"{entry['kind']}/{entry['path']}": entry["reason"] for entry in entries}


class Halved(keras.layers.Layer):  # type: ignore[misc]
    """Keeps half of the rows, in a way that hides how many there are."""

    def call(self, x: Any) -> Any:
        return tf.boolean_mask(x, tf.range(tf.shape(x)[0]) % 2 == 0)


class Doubled(keras.layers.Layer):  # type: ignore[misc]
    """Has each row twice, in a way that hides how many there are."""

    def call(self, x: Any) -> Any:
        return tf.gather(x, tf.where(tf.range(2 * tf.shape(x)[0]) >= 0)[:, 0] // 2)


def test_rows_that_only_running_counts_are_probed(tmp_path: Path) -> None:
    words = np.array([["a b"], ["b c"], ["c"], ["a"]] * 2, dtype=object)
    text = keras.layers.TextVectorization(max_tokens=5, output_mode="multi_hot")
    text.adapt(words[:, 0])
    model = keras.Sequential(
        [
            keras.Input((1,), dtype="string"),
            text,
            keras.layers.Dense(3, activation="relu", name="first"),
            Halved(),
            keras.layers.Dense(4, activation="relu", name="half"),
            Doubled(),
            keras.layers.Dense(2, activation="tanh", name="out"),
        ],
        name="net",
    )
    model.compile("sgd", "mse")
    y = np.ones((8, 2), np.float32)
    tracer = Tracer(tmp_path / "run.zarr", on_error="raise", progress=False)
    first = model.layers[1]
    bags = tf.cast(text(tf.constant(words[:4])), tf.float32)
    expected = tf.matmul(bags, first.kernel) + first.bias
    data = tf.data.Dataset.from_tensor_slices((words, y)).batch(4)
    model.fit(data, shuffle=False, verbose=0, callbacks=[tracer])
    group: Any = zarr.open_group(tmp_path / "run.zarr", mode="r")
    missing = reasons(group)
    found = np.asarray(group["probe/net/first/preactivation"])
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)
    for name in ("first", "out"):
        for part in ("preactivation", "output"):
            assert group[f"probe/net/{name}/{part}"].shape[1] == 4
    for part in ("preactivation", "output"):
        assert "does not count the samples" in missing[f"probe/net/half/{part}"]


def test_the_probe_is_differentiated_where_only_running_counts_the_rows(tmp_path: Path) -> None:
    shape = [
        keras.Input((3,)),
        Halved(),
        keras.layers.Dense(4, activation="relu", name="half"),
        Doubled(),
        keras.layers.Dense(2, activation="tanh", name="out"),
    ]
    model = keras.Sequential(shape, name="net")
    model.compile("sgd", "mse")
    x, y = vectors(8)
    policy = Policy(kinds=("probe", "probe_gradients"), probe_gradients_every=1)
    tracer = Tracer(tmp_path / "run.zarr", policy, on_error="raise", progress=False)
    with tf.GradientTape() as tape:
        start = tf.constant(x[:4])
        tape.watch(start)
        output = model(start)
        strongest = tf.reduce_sum(tf.reduce_max(output, axis=-1))
    expected = tape.gradient(strongest, start)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=[tracer])
    group: Any = zarr.open_group(tmp_path / "run.zarr", mode="r")
    found = np.asarray(group["probe_gradients/net/out/saliency"])
    assert found.shape == (2, 4, 3)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)
    assert "does not count the samples" in reasons(group)["probe_gradients/net/half/saliency"]


def test_a_model_without_a_call_is_said_not_to_be_probed(tmp_path: Path) -> None:
    class Pair(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name="pair")
            self.inside = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])

        def train_step(self, data: Any) -> Any:
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self.inside(x, training=True) - y) ** 2)
            weights = self.inside.trainable_weights
            self.optimizer.apply(tape.gradient(loss, weights), weights)
            return {"loss": loss}

    model = Pair()
    model.compile("sgd")
    x, y = vectors(8)
    tracer = Tracer(tmp_path / "run.zarr", on_error="raise", progress=False)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[tracer])
    group: Any = zarr.open_group(tmp_path / "run.zarr", mode="r")
    (entry,) = [e for e in group.attrs["steptrace"]["missing"] if e["kind"] == "probe"]
    assert entry["reason"] == "the model has no call, so that the probe cannot run it"
