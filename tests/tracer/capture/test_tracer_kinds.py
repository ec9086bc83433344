"""Kinds beyond the step's own tensors: optimizer slots, validation, logged values, saliency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr
from keras import layers

from keras_models import cnn, images, mlp, vectors, weights_of
from steptrace_schema.names import DEFAULT_KINDS, KINDS
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Policy, Tracer

if TYPE_CHECKING:
    from pathlib import Path

    Classified = tuple[Path, Any, dict[str, list[float]]]

BATCH, STEPS = 8, 6


def values(path: Path, key: str) -> Any:
    return np.asarray(zarr.open_group(path, mode="r")[key])


def missing(path: Path) -> dict[str, str]:
    return {f"{m.kind}/{m.path}": m.reason for m in read_attributes(path).missing}


@pytest.fixture(scope="module")
def classified(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Any, dict[str, list[float]]]:
    """Return the trace of a classifier with all kinds, the classifier, and Keras' history."""
    path = tmp_path_factory.mktemp("kinds") / "run.zarr"
    x, y = images(24)
    ids = np.arange(100, 124)
    model = cnn()
    data = tf.data.Dataset.from_tensor_slices(((x, y, np.linspace(0.5, 2, 24)), ids))
    numbers = iter([ids[i : i + BATCH] for _ in range(2) for i in range(0, 24, BATCH)])
    tracer = Tracer(
        path,
        kinds=KINDS,
        probe_gradients_every=1,
        sample_ids=lambda _: next(numbers),
        on_error="raise",
        progress=False,
    )

    class Log(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            tracer.log("batch", batch)
            if batch == 1:
                tracer.log("image/mean", x[:2].mean(axis=0)[..., 0].astype(">f4"))

    history = model.fit(
        data.map(lambda batch, _: batch).batch(BATCH),
        epochs=2,
        shuffle=False,
        verbose=0,
        validation_data=(x[:10], y[:10]),
        callbacks=[tracer, Log()],
    )
    assert validate(path) == []
    return path, model, history.history


def test_validation_stands_at_the_weights_that_were_validated(
    classified: Classified,
) -> None:
    path, _, history = classified
    assert values(path, "validation/step").tolist() == [3, 6]
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(values(path, f"validation/{name}"), history[f"val_{name}"])


def test_logged_values_stand_at_their_steps(
    classified: Classified,
) -> None:
    path, _, _ = classified
    assert values(path, "logged/step").tolist() == list(range(6))
    assert values(path, "logged/batch").tolist() == [0, 1, 2, 0, 1, 2]
    expected = images(24)[0][:2].mean(axis=0)[..., 0]
    found = values(path, "logged/image/mean")
    for step in range(6):
        if step % 3 == 1:
            assert (found[step] == expected).all()
        else:
            assert np.isnan(found[step]).all()
    assert not [key for key in missing(path) if key.startswith("logged/")]


def test_sample_ids_and_weights_are_those_of_the_data(
    classified: Classified,
) -> None:
    path, _, _ = classified
    ids = np.arange(100, 124).reshape(3, BATCH)
    assert (values(path, "inputs/sample_id") == np.concatenate([ids, ids])).all()
    weights = np.linspace(0.5, 2, 24).reshape(3, BATCH)
    assert (values(path, "inputs/sample_weight") == np.concatenate([weights, weights])).all()


def test_the_loss_of_the_samples_is_the_loss_before_weights_and_mean(
    classified: Classified,
) -> None:
    path, model, _ = classified
    losses = values(path, "inputs/sample_loss")
    weights = values(path, "inputs/sample_weight")
    np.testing.assert_allclose(
        (losses * weights).mean(axis=1), values(path, "scalars/loss"), rtol=1e-5
    )
    outputs = values(path, f"activations/{model.layers[-1].path}/output")  # of the first samples
    y = images(24)[1].reshape(3, BATCH)
    for step in range(STEPS):
        picked = outputs[step][np.arange(4), y[step % 3][:4]]
        np.testing.assert_allclose(losses[step][:4], -np.log(picked), rtol=1e-4, atol=1e-5)


def test_momenta_follow_the_formula_of_adam(
    classified: Classified,
) -> None:
    path, model, _ = classified
    for variable in model.trainable_variables:
        gradients = values(path, f"gradients/{variable.path}").astype(np.float64)
        first, second = (
            values(path, f"optimizer/{variable.path}/{slot}") for slot in ("momentum", "velocity")
        )
        m = v = np.zeros_like(gradients[0])
        for step in range(STEPS):
            np.testing.assert_allclose(first[step], m, rtol=1e-4, atol=1e-7)
            np.testing.assert_allclose(second[step], v, rtol=1e-4, atol=1e-9)
            m = m + (gradients[step] - m) * 0.1
            v = v + (gradients[step] ** 2 - v) * 0.001


def test_saliency_is_the_gradient_of_the_strongest_unit(
    classified: Classified,
) -> None:
    path, model, _ = classified
    again = cnn("eager")
    x = tf.constant(values(path, "probe/x"))
    for step in (0, STEPS - 1):
        for recorded, variable in zip(model.weights, again.weights, strict=True):
            if f"weights/{recorded.path}" in zarr.open_group(path, mode="r"):
                variable.assign(values(path, f"weights/{recorded.path}")[step])
        for recorded, layer in zip(model.layers, again.layers, strict=True):
            if not isinstance(layer, (layers.Conv2D, layers.Dense)):
                continue
            upto = keras.Model(again.inputs, layer.output)
            key = f"probe_gradients/{recorded.path}"
            for sample in range(len(x)):
                with tf.GradientTape() as tape:
                    row = x[sample : sample + 1]
                    tape.watch(row)
                    out = upto(row, training=False)
                    units = tf.reduce_mean(tf.reshape(out, (-1, out.shape[-1])), axis=0)
                    unit = int(tf.argmax(units))
                    target = units[unit]
                expected = np.asarray(tape.gradient(target, row))[0]
                assert values(path, f"{key}/unit")[step, sample] == unit
                found = values(path, f"{key}/saliency")[step, sample]
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
                np.testing.assert_allclose(
                    values(path, f"{key}/norm")[step, sample],
                    np.linalg.norm(expected),
                    rtol=1e-4,
                    atol=1e-6,
                )


@pytest.mark.sampled(1)
@pytest.mark.parametrize("mode", ["compiled", "eager", "xla"])
def test_all_kinds_together_change_nothing(tmp_path: Path, mode: Any) -> None:
    x, y = images(24)

    def fit(callbacks: list[Any]) -> Any:
        model = cnn(mode)
        model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=callbacks, validation_split=0.2)
        return weights_of(model)

    tracer = Tracer(tmp_path / "run.zarr", kinds=KINDS, on_error="raise", progress=False)
    for expected, weight in zip(fit([]), fit([tracer]), strict=True):
        assert expected.tobytes() == weight.tobytes()


def test_a_loss_without_a_value_for_each_sample_is_listed_with_the_reason(tmp_path: Path) -> None:
    model = mlp()
    model.compile("sgd", lambda y, p: tf.reduce_mean(tf.square(y - p)))
    x, y = vectors(BATCH)
    model.fit(x, y, verbose=0, callbacks=[Tracer(tmp_path / "run.zarr", progress=False)])
    assert "a value for each sample" in missing(tmp_path / "run.zarr")["inputs/sample_loss"]
    assert validate(tmp_path / "run.zarr") == []


def test_the_losses_of_several_outputs_are_summed_with_their_weights(tmp_path: Path) -> None:
    inputs = keras.Input((3,))
    first, second = layers.Dense(2, name="a")(inputs), layers.Dense(1, name="b")(inputs)
    model = keras.Model(inputs, [first, second])
    model.compile("sgd", ["mse", "mae"], loss_weights=[2.0, 0.5])
    x, y = vectors(BATCH)
    path = tmp_path / "run.zarr"
    tracer = Tracer(path, samples=BATCH, on_error="raise", progress=False)
    model.fit(x, [y, y[:, :1]], batch_size=BATCH, shuffle=False, verbose=0, callbacks=[tracer])
    a, b = (values(path, f"activations/{layer.path}/output")[0] for layer in model.layers[1:])
    expected = 2.0 * np.square(a - y).mean(axis=1) + 0.5 * np.abs(b - y[:, :1])[:, 0]
    np.testing.assert_allclose(values(path, "inputs/sample_loss")[0], expected, rtol=1e-5)


def test_positions_that_a_mask_leaves_out_do_not_count_in_the_loss_of_a_sample(
    tmp_path: Path,
) -> None:
    lengths, rng = np.array([2, 5, 1, 3]), np.random.default_rng(2)
    real = np.arange(5) < lengths[:, np.newaxis]
    x = np.where(real, rng.integers(1, 9, (4, 5)), 0)
    y = np.where(real, rng.integers(0, 3, (4, 5)), 0)

    def fit(callbacks: list[Any]) -> Any:
        keras.utils.set_random_seed(3)
        words = layers.Embedding(9, 6, mask_zero=True)
        tags = layers.Dense(3, activation="softmax", name="tags")
        states = layers.GRU(4, return_sequences=True)
        inputs = keras.Input((5,), dtype="int32")
        model = keras.Sequential([inputs, words, states, tags], name="net")
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0, callbacks=callbacks)
        return model

    path = tmp_path / "run.zarr"
    tracer = Tracer(path, samples=4, on_error="raise", progress=False)
    for untraced, traced in zip(weights_of(fit([])), weights_of(fit([tracer])), strict=True):
        assert untraced.tobytes() == traced.tobytes()
    outputs = values(path, "activations/net/tags/output").astype(np.float64)
    each = -np.log(np.take_along_axis(outputs, np.broadcast_to(y, (3, 4, 5))[..., np.newaxis], -1))
    expected = (each[..., 0] * real).sum(axis=2) / lengths
    np.testing.assert_allclose(values(path, "inputs/sample_loss"), expected, rtol=1e-5)
    total = (each[..., 0] * real).sum(axis=(1, 2)) / lengths.sum()
    np.testing.assert_allclose(values(path, "scalars/loss"), total, rtol=1e-5)


def test_a_value_that_cannot_be_logged_is_refused_at_once(tmp_path: Path) -> None:
    model, refused = mlp(), []
    tracer = Tracer(tmp_path / "run.zarr", on_error="raise", progress=False)

    class Log(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            tracer.log("a", 1)
            for name, value in (("a", [1, 2]), ("b", "text"), ("", 1)):
                with pytest.raises(ValueError, match=r"log|name") as found:
                    tracer.log(name, value)
                refused.append(str(found.value))

    x, y = vectors(BATCH)
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[tracer, Log()])
    assert len(refused) == 3
    assert values(tmp_path / "run.zarr", "logged/a").tolist() == [1.0]


def test_samples_of_given_ids_are_kept_wherever_they_occur(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    x, y = vectors(3 * BATCH)
    ids = np.arange(3 * BATCH) * 10
    wanted = (
        150,
        30,
        160,
        999,
    )  # one of each batch, and one that is in none
    batches = iter(ids.reshape(3, BATCH))
    tracer = Tracer(
        path, samples=wanted, sample_ids=lambda _: next(batches), on_error="raise", progress=False
    )
    mlp().fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[tracer])
    assert validate(path) == []
    assert values(path, "inputs/recorded_id").tolist() == [
        [30, -1, -1, -1],
        [150, -1, -1, -1],
        [160, -1, -1, -1],
    ]
    for step, sample in enumerate((3, 15, 16)):
        found = values(path, "inputs/x")[step]
        assert (found[0] == x[sample]).all()
        assert np.isnan(found[1:]).all()
        kernel, bias = (values(path, f"weights/mlp/hidden/{v}")[step] for v in ("kernel", "bias"))
        output = values(path, "activations/mlp/hidden/output")[step]
        np.testing.assert_allclose(output[0], np.tanh(x[sample] @ kernel + bias), rtol=1e-5)
    statistics: Any = zarr.open_group(path, mode="r")["statistics/inputs/values"]
    mean = np.asarray(statistics)[0, statistics.attrs["tensors"].index("x"), 0]
    np.testing.assert_allclose(mean, x[3].mean(), rtol=1e-6)
    assert (values(path, "inputs/sample_id") == ids.reshape(3, BATCH)).all()
    with pytest.raises(ValueError, match="pass sample_ids"):
        Tracer(path, samples=wanted)


def test_optimizer_and_saliency_are_recorded_on_request_only() -> None:
    assert set(KINDS) - set(DEFAULT_KINDS) == {"optimizer"}
    assert Policy().kinds == DEFAULT_KINDS
