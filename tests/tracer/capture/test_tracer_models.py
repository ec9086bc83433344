"""Kinds of models and of training loops, beyond the plain ones."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr
from keras import layers

from keras_models import mlp, vectors, weights_of
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt


def fit(build: Callable[[], Any], callbacks: list[Any], x: Any, y: Any = None) -> Any:
    """Train the model that `build` returns for two epochs of three batches."""
    keras.utils.set_random_seed(3)
    model = build()
    batches = {} if y is None else {"batch_size": 8}
    model.fit(x, y, **batches, shuffle=False, epochs=2, verbose=0, callbacks=callbacks)
    return model


def both(path: Path, build: Callable[[], Any], x: Any, y: Any = None, **fields: Any) -> zarr.Group:
    """Train with and without tracer, see that the weights agree, and return the valid trace."""
    traced = fit(build, [Tracer(path, on_error="raise", progress=False, **fields)], x, y)
    for left, right in zip(weights_of(fit(build, [], x, y)), weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()
    assert validate(path) == []
    return zarr.open_group(path, mode="r")


def array(group: zarr.Group, key: str) -> npt.NDArray[Any]:
    return np.asarray(group[key])


def reasons(path: Path) -> dict[str, str]:
    return {f"{m.kind}/{m.path}": m.reason for m in read_attributes(path).missing}


@pytest.mark.parametrize("eager", [False, True])
def test_recurrent_layers_are_recorded_but_not_what_runs_in_their_loop(
    tmp_path: Path, eager: bool
) -> None:
    def build() -> Any:
        model = keras.Sequential(
            [keras.Input((4, 3)), layers.LSTM(2, name="memory"), layers.Dense(2, name="out")],
            name="net",
        )
        model.compile("sgd", "mse", run_eagerly=eager)
        return model

    x = np.random.default_rng(0).normal(size=(24, 4, 3)).astype(np.float32)
    path = tmp_path / "run.zarr"
    group = both(path, build, x, vectors()[1], samples=8)
    memory = array(group, "activations/net/memory/output")
    kernel, bias = (array(group, f"weights/net/out/{name}") for name in ("kernel", "bias"))
    out = array(group, "activations/net/out/output")
    np.testing.assert_allclose(
        out, np.einsum("tsi,tio->tso", memory, kernel[:6]) + bias[:6, None], rtol=1e-5, atol=1e-6
    )
    why = reasons(path)
    assert "loop" in why["activations/net/memory/lstm_cell/output"]
    assert "loop" in why["probe/net/memory/preactivation"]


def test_several_inputs_and_a_shared_layer(tmp_path: Path) -> None:
    def build() -> Any:
        a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
        shared = layers.Dense(5, activation="tanh", name="shared")
        hidden = layers.Dense(5, name="x")(layers.Concatenate(name="step")([a, b]))
        out = layers.Dense(1, name="out")(shared(shared(hidden)))
        model = keras.Model({"a": a, "b": b}, out)
        model.compile("sgd", "mse")
        return model

    rng = np.random.default_rng(0)
    x = {k: rng.normal(size=(24, n)).astype(np.float32) for k, n in (("a", 4), ("b", 3))}
    y = vectors()[1][:, :1]
    group = both(tmp_path / "run.zarr", build, x, y, samples=8)
    assert (array(group, "inputs/x_b")[1] == x["b"][8:16]).all()
    # "x" and "step" are names that the format uses itself.
    joined = array(group, "activations/step_1/output")
    assert (joined[0] == np.concatenate([x["a"][:8], x["b"][:8]], axis=1)).all()
    kernel, bias = (array(group, f"weights/shared/{name}")[0] for name in ("kernel", "bias"))
    first = array(group, "activations/shared/output")[0]
    second = array(group, "activations/shared/call1_output")[0]
    np.testing.assert_allclose(second, np.tanh(first @ kernel + bias), rtol=1e-5, atol=1e-6)
    # The loss depends on input b through the part of the first kernel that multiplies it.
    hidden = array(group, "activation_gradients/x_1/output")[0]
    expected = hidden @ array(group, "weights/x_1/kernel")[0][4:].T
    np.testing.assert_allclose(array(group, "inputs/x_gradient_b")[0], expected, rtol=1e-4)


def test_the_sparse_gradient_of_an_embedding_is_recorded_whole(tmp_path: Path) -> None:
    def build() -> Any:
        model = keras.Sequential(
            [
                keras.Input((2,), dtype="int32"),
                layers.Embedding(7, 3, name="words"),
                layers.Flatten(),
                layers.Dense(2, activity_regularizer="l2"),
            ],
            name="net",
        )
        model.compile("sgd", "mse")
        return model

    x = np.random.default_rng(0).integers(0, 7, (24, 2))
    path = tmp_path / "run.zarr"
    group = both(path, build, x, vectors()[1], samples=8)
    of_output = array(group, "activation_gradients/net/words/output")[0]
    expected = np.zeros((7, 3), np.float32)
    np.add.at(expected, x[:8], of_output)
    np.testing.assert_allclose(array(group, "gradients/net/words/embeddings")[0], expected, 1e-5)
    assert "not floating point" in reasons(path)["inputs/x_gradient"]


def test_gradients_are_recorded_without_the_loss_scale(tmp_path: Path) -> None:
    def build() -> Any:
        model = keras.Sequential(
            [
                keras.Input((3,)),
                layers.Dense(4, activation="tanh", dtype="mixed_float16", name="hidden"),
                layers.Dense(2, name="out", dtype="float32"),
            ],
            name="net",
        )
        scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.25), 2.0**17)
        model.compile(scaled, "mse")
        return model

    group = both(tmp_path / "run.zarr", build, *vectors(), samples=8)
    kernel = array(group, "weights/net/hidden/kernel")
    gradient = array(group, "gradients/net/hidden/kernel")
    # A step whose gradients overflow in float16 is not applied, and halves the scale.
    applied = np.isfinite(gradient).all(axis=(1, 2))
    assert applied.any()
    expected = kernel[:-1] - np.where(applied[:, None, None], np.float32(0.25) * gradient, 0)
    assert (kernel[1:] == expected).all()
    y, out = array(group, "inputs/y"), array(group, "activations/net/out/output")
    np.testing.assert_allclose(
        array(group, "activation_gradients/net/out/output"), 2 * (out - y) / y[0].size, rtol=1e-5
    )
    np.testing.assert_allclose(
        array(group, "scalars/loss"), ((out - y) ** 2).mean(axis=(1, 2)), rtol=1e-5
    )
    assert array(group, "weights/step").tolist() == list(range(7))


def test_steps_that_only_accumulate_gradients_count(tmp_path: Path) -> None:
    def build() -> Any:
        model = mlp()
        model.compile(keras.optimizers.SGD(0.25, gradient_accumulation_steps=2), "mse")
        return model

    group = both(tmp_path / "run.zarr", build, *vectors())
    assert array(group, "gradients/step").tolist() == list(range(6))
    kernel = array(group, "weights/mlp/out/kernel")
    moved = [bool((a != b).any()) for a, b in itertools.pairwise(kernel)]
    assert moved == [False, True] * 3


def test_several_steps_in_one_execution_are_recorded_one_by_one(tmp_path: Path) -> None:
    def build() -> Any:
        model = mlp()
        model.compile(keras.optimizers.SGD(0.25), "mse", steps_per_execution=2)
        return model

    group = both(tmp_path / "run.zarr", build, *vectors())
    assert array(group, "scalars/step").tolist() == list(range(6))
    assert array(group, "scalars/batch").tolist() == [0, 1, 2] * 2
    kernel, gradient = (array(group, f"{k}/mlp/out/kernel") for k in ("weights", "gradients"))
    assert (kernel[1:] == kernel[:-1] - np.float32(0.25) * gradient).all()


def test_an_output_whose_rows_are_not_samples_is_missing_with_that_reason(tmp_path: Path) -> None:
    def build() -> Any:
        model = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Lambda(lambda x: tf.reshape(x, (-1, 3)), output_shape=(3,)),
                layers.Dense(3, activation="relu", name="rows"),
                layers.Lambda(lambda x: tf.reshape(x, (-1, 6)), output_shape=(6,)),
                layers.Dense(2, name="out"),
            ],
            name="net",
        )
        model.compile("sgd", "mse")
        return model

    x = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
    path = tmp_path / "run.zarr"
    group = both(path, build, x, vectors()[1])
    why = reasons(path)
    for key in ("activations/net/rows/output", "probe/net/rows/preactivation"):
        assert "first dimension" in why[key]
        assert key not in group
    assert "activations/net/out/output" in group


class Sampling(layers.Layer):  # type: ignore[misc]
    """Adds noise, in inference as well."""

    def __init__(self, seeded: bool) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(4) if seeded else None

    def call(self, x: Any) -> Any:
        if self.seeds is None:
            return x + tf.random.normal(tf.shape(x))
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seeds)


@pytest.mark.parametrize("seeded", [True, False])
def test_the_random_numbers_of_the_training_stay_what_they_were(
    tmp_path: Path, seeded: bool
) -> None:
    def build() -> Any:
        model = keras.Sequential([keras.Input((3,)), layers.Dense(4), Sampling(seeded)])
        model.add(layers.Dense(2, activation="tanh"))
        model.compile("sgd", "mse")
        return model

    both(tmp_path / "run.zarr", build, *vectors())


class TwoLosses(keras.Model):  # type: ignore[misc]
    """A model with a training step of its own, and nothing built before it."""

    def __init__(self) -> None:
        super().__init__(name="own")
        self.net = layers.Dense(2, name="net")

    def build(self, shape: Any) -> None:
        self.net.build(shape)

    def call(self, x: Any) -> Any:
        return self.net(x)

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((self(x) - y) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"total/loss": loss, "many": tf.ones(3)}


def test_a_training_step_of_the_models_own(tmp_path: Path) -> None:
    def build() -> Any:
        model = TwoLosses()
        model.compile(keras.optimizers.SGD(2.0**-6))
        return model

    x, y = vectors()
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    group = both(tmp_path / "run.zarr", build, batches, samples=8)
    out, y = array(group, "activations/own/net/output"), array(group, "inputs/y")
    np.testing.assert_allclose(
        array(group, "scalars/loss"), ((out - y) ** 2).sum(axis=(1, 2)), rtol=1e-5
    )
    assert (array(group, "scalars/metrics/total_loss") == array(group, "scalars/loss")).all()
    gradient = np.einsum("tsi,tso->tio", array(group, "inputs/x"), 2 * (out - y))
    np.testing.assert_allclose(
        array(group, "gradients/own/net/kernel"), gradient, rtol=1e-4, atol=1e-5
    )


def test_sequences_of_different_lengths(tmp_path: Path) -> None:
    lengths = [3, 2, 5]
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(4, n, 3)).astype(np.float32) for n in lengths]

    def batches() -> Any:
        for x in data:
            yield x, np.ones((4, 2), np.float32)

    def build() -> Any:
        model = keras.Sequential(
            [keras.Input((None, 3)), layers.GlobalAveragePooling1D(), layers.Dense(2)]
        )
        model.compile("sgd", "mse")
        return model

    specs = (tf.TensorSpec((4, None, 3)), tf.TensorSpec((4, 2)))
    source = tf.data.Dataset.from_generator(batches, output_signature=specs)
    source = source.apply(tf.data.experimental.assert_cardinality(3))
    group = both(tmp_path / "run.zarr", build, source)
    x = array(group, "inputs/x")
    assert x.shape == (6, 4, 5, 3)
    for step, values in enumerate(data):
        assert (x[step, :, : lengths[step]] == values).all()
        assert np.isnan(x[step, :, lengths[step] :]).all()


def test_the_last_row_of_weights_is_what_the_last_step_left(tmp_path: Path) -> None:
    rows: list[Any] = []

    class Look(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            rows.append(self.model.weights[0].numpy())

    best = keras.callbacks.EarlyStopping(
        monitor="loss", mode="max", patience=9, restore_best_weights=True
    )
    tracer = Tracer(tmp_path / "run.zarr", on_error="raise", progress=False)
    keras.utils.set_random_seed(3)
    model = mlp()
    x, y = vectors()
    model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[best, tracer, Look()])
    recorded = array(zarr.open_group(tmp_path / "run.zarr", mode="r"), "weights/mlp/hidden/kernel")
    assert (recorded[1:] == np.stack(rows)).all()
    assert (model.weights[0].numpy() != rows[-1]).any()  # the best ones, by now


def test_an_input_that_is_called_gradient_is_not_taken_for_one(tmp_path: Path) -> None:
    x, y = vectors()

    def build() -> Any:
        inputs = {name: keras.Input((3,), name=name) for name in ("a", "gradient_a")}
        outputs = layers.Dense(2, name="out")(layers.Concatenate()([*inputs.values()]))
        model = keras.Model(inputs, outputs)
        model.compile("sgd", "mse")
        return model

    path = tmp_path / "run.zarr"
    group = both(path, build, {"a": x, "gradient_a": -x}, y)
    assert np.array_equal(array(group, "inputs/x__gradient_a")[0], -x[:4])
    kernel = array(group, "weights/out/kernel")[0]
    expected = array(group, "activation_gradients/out/output")[0] @ kernel[:3].T
    np.testing.assert_allclose(array(group, "inputs/x_gradient_a")[0], expected, rtol=1e-5)
    assert "inputs/x_gradient__gradient_a" in group
    concatenate, _ = read_attributes(path).layers
    assert concatenate.data == ("x_a", "x__gradient_a")


def test_a_layer_that_is_called_as_an_input_of_the_probe_takes_its_place(tmp_path: Path) -> None:
    x, y = vectors()

    def build() -> Any:
        inputs = {name: keras.Input((3,), name=name) for name in ("a", "b")}
        hidden = layers.Dense(4, activation="relu", name="x_a")(inputs["a"])
        outputs = layers.Dense(2)(layers.Concatenate()([hidden, inputs["b"]]))
        model = keras.Model(inputs, outputs)
        model.compile("sgd", "mse")
        return model

    group = both(tmp_path / "run.zarr", build, {"a": x, "b": -x}, y)
    assert "probe/x_a/output" in group
    assert "probe/x_b" in group
    missing = {(m.kind, m.path): m.reason for m in read_attributes(tmp_path / "run.zarr").missing}
    assert "a layer" in missing["probe", "x_a"]


@pytest.mark.parametrize("name", ["step", "x", "X"])
def test_a_model_may_have_the_name_of_an_array(tmp_path: Path, name: str) -> None:
    def build() -> Any:
        model = keras.Sequential(
            [keras.Input((3,)), layers.Dense(2, activation="relu", name="out")], name=name
        )
        model.compile("sgd", "mse")
        return model

    group = both(tmp_path / "run.zarr", build, *vectors())
    assert f"weights/{name}_1/out/kernel" in group
    assert f"probe/{name}_1/out/output" in group
