"""The root attribute ``losses``: which loss, with which settings and weight, each target has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from steptrace_analyzer import open_trace
from steptrace_schema.store.opening import read_attributes
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from steptrace_schema.format.attributes import TargetLoss

ROWS = 8


def two_heads(loss: Any, weights: Any = None, **compiled: Any) -> Any:
    keras.utils.set_random_seed(5)
    first = keras.Input((3,))
    hidden = layers.Dense(4, "relu")(first)
    kind = layers.Dense(3, "softmax", name="kind")(hidden)
    size = layers.Dense(1, name="size")(hidden)
    model = keras.Model(first, [kind, size], name="net")
    model.compile(keras.optimizers.SGD(0.1), loss, loss_weights=weights, **compiled)
    return model


def one_head(loss: Any, **compiled: Any) -> Any:
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, name="out")], name="net")
    model.compile(keras.optimizers.SGD(0.1), loss, **compiled)
    return model


def data() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4 * ROWS, 3)).astype("f4")
    kinds = rng.integers(0, 3, len(x))
    return x, kinds, 2 * x[:, :1] + rng.standard_t(2, (len(x), 1)).astype("f4")


def recorded(path: Path, model: Any, y: Any, **fields: Any) -> tuple[TargetLoss, ...]:
    x, _, _ = data()
    tracer = Tracer(path, samples=ROWS, progress=False, **fields)
    model.fit(x, y, batch_size=ROWS, shuffle=False, verbose=0, callbacks=[tracer])
    return read_attributes(path).losses


def entropy(shares: Any, classes: Any, _: Any) -> Any:
    return -np.log(shares[np.arange(len(classes)), classes.ravel()]).mean()


def huber(predicted: Any, wanted: Any, config: Any) -> Any:
    """Huber, Ann. Math. Statist. 35, 1964, eq. 2."""
    delta, error = config["delta"], np.abs(predicted - wanted)
    return np.where(error <= delta, error**2 / 2, delta * (error - delta / 2)).mean()


FORMULAS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "sparse_categorical_crossentropy": entropy,
    "huber": huber,
}


@pytest.mark.parametrize(
    ("capture", "run_eagerly"), [("inside", False), ("inside", True), ("beside", False)]
)
def test_the_weighted_sum_of_the_losses_of_all_targets_is_the_loss_of_the_step(
    tmp_path: Path, capture: Any, run_eagerly: bool
) -> None:
    loss = ["sparse_categorical_crossentropy", keras.losses.Huber(0.5)]
    _, kinds, sizes = data()
    path = tmp_path / "run.zarr"
    model = two_heads(loss, [0.25, 3.0], run_eagerly=run_eagerly)
    found = recorded(path, model, [kinds, sizes], capture=capture)
    assert [(each.target, each.function, each.weight) for each in found] == [
        ("y_0", "sparse_categorical_crossentropy", 0.25),
        ("y_1", "huber", 3.0),
    ]
    assert found[1].config == {"delta": 0.5, "reduction": "sum_over_batch_size"}
    trace = open_trace(path)
    for row, loss_of_step in enumerate(np.asarray(trace["scalars/loss"])):
        total = 0.0
        for each, layer in zip(found, ("kind", "size"), strict=True):
            predicted = np.asarray(trace[f"activations/{layer}/output"], dtype=np.float64)[row]
            wanted = np.asarray(trace[f"inputs/{each.target}"])[row]
            total += each.weight * FORMULAS[str(each.function)](predicted, wanted, each.config)
        assert loss_of_step == pytest.approx(total, rel=1e-5)


def test_losses_and_targets_in_mappings_are_told_by_their_names(tmp_path: Path) -> None:
    _, kinds, sizes = data()
    model = two_heads({"size": "mae", "kind": "sparse_categorical_crossentropy"})
    found = recorded(tmp_path / "run.zarr", model, {"size": sizes, "kind": kinds})
    told = {each.target: (each.function, each.weight) for each in found}
    assert told == {
        "y_kind": ("sparse_categorical_crossentropy", 1.0),
        "y_size": ("mean_absolute_error", 1.0),
    }


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_an_output_without_a_loss_has_no_entry(tmp_path: Path) -> None:
    _, kinds, _ = data()
    found = recorded(
        tmp_path / "run.zarr", two_heads(["sparse_categorical_crossentropy", None]), [kinds]
    )
    assert [(each.target, each.function) for each in found] == [
        ("y_0", "sparse_categorical_crossentropy")
    ]


def test_the_loss_of_one_output_has_its_settings_and_their_defaults(tmp_path: Path) -> None:
    _, _, sizes = data()
    (found,) = recorded(
        tmp_path / "run.zarr", one_head("binary_crossentropy"), (sizes > 0).astype("f4")
    )
    assert (found.target, found.name) == ("y", "binary_crossentropy")
    assert found.config == {
        "axis": -1,
        "from_logits": False,
        "label_smoothing": 0.0,
        "reduction": "sum_over_batch_size",
    }


def test_a_function_that_is_none_of_keras_is_named_as_such(tmp_path: Path) -> None:
    def mean_squared_error(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.abs(y_true - y_pred), axis=-1)

    class Huber(keras.losses.Huber):  # type: ignore[misc]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return 2 * super().call(y_true, y_pred)

    for number, loss in enumerate((mean_squared_error, Huber())):
        (found,) = recorded(tmp_path / f"{number}.zarr", one_head(loss), data()[2])
        assert found.function is None
        assert found.config == {"reduction": "sum_over_batch_size"}


def test_losses_that_a_step_computes_of_other_targets_are_not_guessed(tmp_path: Path) -> None:
    class Noisy(keras.Model):  # type: ignore[misc]
        def compute_loss(self, x: Any, y: Any, *more: Any, **kw: Any) -> Any:
            return super().compute_loss(x, y + 1.0, *more, **kw)

    first = keras.Input((3,))
    model = Noisy(first, layers.Dense(1)(first))
    model.compile("sgd", "mse")
    assert recorded(tmp_path / "run.zarr", model, data()[2]) == ()


def test_the_losses_of_a_loop_of_its_own_are_not_guessed(tmp_path: Path) -> None:
    model, (x, _, y) = one_head("mse"), data()
    loss, optimizer = keras.losses.MeanSquaredError(), keras.optimizers.SGD(0.1)

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            value = 3 * loss(y, model(x, training=True))
        weights = model.trainable_weights
        optimizer.apply(tape.gradient(value, weights), weights)
        return value

    with Tracer(tmp_path / "run.zarr", progress=False) as tracer:
        tracer.wrap(step)(tf.constant(x), tf.constant(y))
    assert read_attributes(tmp_path / "run.zarr").losses == ()


def test_where_a_later_fit_has_another_loss_none_is_told(tmp_path: Path) -> None:
    model, (x, _, y) = one_head("mse"), data()
    tracer = Tracer(tmp_path / "run.zarr", progress=False)
    for loss in (keras.losses.Huber(1.0), keras.losses.Huber(2.0)):
        model.compile(model.optimizer, loss)
        model.fit(x, y, verbose=0, callbacks=[tracer])
    tracer.close()
    assert read_attributes(tmp_path / "run.zarr").losses == ()


@pytest.mark.parametrize(("delta", "told"), [(1.0, 1), (2.0, 0)])
def test_a_trace_that_is_resumed_with_another_loss_tells_none(
    tmp_path: Path, delta: float, told: int
) -> None:
    model, (x, _, y) = one_head(keras.losses.Huber(1.0)), data()
    model.fit(x, y, verbose=0, callbacks=[Tracer(tmp_path / "run.zarr", progress=False)])
    model.compile(model.optimizer, keras.losses.Huber(delta))
    again = Tracer(tmp_path / "run.zarr", resume=True, progress=False)
    model.fit(x, y, verbose=0, callbacks=[again])
    assert len(read_attributes(tmp_path / "run.zarr").losses) == told
