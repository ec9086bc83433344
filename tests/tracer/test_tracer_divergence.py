"""Trainings that part at a known place, recorded by the tracer and found by the analyzer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
from keras import layers

from steptrace_analyzer import first_divergence
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEP = 5
KINDS = ("scalars", "weights", "gradients", "activations", "inputs", "optimizer")


def network(dropout: int = 1, name: str = "out", rate: float = 0.5, **compiled: Any) -> Any:
    keras.utils.set_random_seed(3)
    x = keras.Input((6,))
    hidden = layers.Dense(5, "tanh", name="hidden")(x)
    dropped = layers.Dropout(rate, seed=dropout, name="dropout")(hidden)
    out = layers.Dense(2, name=name)(layers.Add(name="sum")([hidden, dropped]))
    model = keras.Model(x, out, name="net")
    model.compile(**{"optimizer": keras.optimizers.Adam(0.01), "loss": "mse", **compiled})
    return model


def at_step(change: Callable[[Any], None]) -> Any:
    """Return a callback that changes the model before step 5."""

    class Change(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == STEP:
                change(self.model)

    return Change()


def train(path: Path, model: Any, *callbacks: Any, x: Any = None, **fields: Any) -> Path:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(64, 6)).astype("f4")
    y = rng.normal(size=(64, 2)).astype("f4")
    tracer = Tracer(path, progress=False, on_error="raise", **fields)
    model.fit(
        data if x is None else x(data),
        y,
        batch_size=8,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, tracer],
    )
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(
        tmp_path_factory.mktemp("base") / "base.zarr",
        network(),
        kinds=KINDS,
    )


def test_the_same_training_twice_is_equal(base: Path, tmp_path: Path) -> None:
    found = first_divergence(base, train(tmp_path / "b.zarr", network(), kinds=KINDS))
    assert (found.verdict, found.recognised, found.not_compared) == ("equal", (), ())
    assert found.coverage.by_statistics == 0


def test_another_seed_of_dropout_is_found_in_its_layer(base: Path, tmp_path: Path) -> None:
    found = first_divergence(base, train(tmp_path / "b.zarr", network(dropout=2), kinds=KINDS))
    assert found.place is not None
    assert (found.place.step, found.place.phase) == (0, "forward")
    assert found.place.path.endswith("dropout/output")
    assert (
        "Dropout 'dropout': the output of hidden is equal; it drew other random numbers, or is "
        "configured in another way"
    ) in str(found.origin)


def test_a_kernel_that_is_scaled_between_two_steps_is_found(base: Path, tmp_path: Path) -> None:
    def scale(model: Any) -> None:
        kernel = model.get_layer("hidden").kernel
        kernel.assign(kernel * 1.5)

    found = first_divergence(
        base, train(tmp_path / "b.zarr", network(), at_step(scale), kinds=KINDS)
    )
    assert found.place is not None
    assert (found.place.step, found.place.phase) == (STEP, "weights")
    assert found.place.path.endswith("hidden/kernel")
    assert "something between the steps, changed the weights" in str(found.origin)


def test_another_rate_from_a_step_on_is_found_there(base: Path, tmp_path: Path) -> None:
    def faster(model: Any) -> None:
        model.optimizer.learning_rate = 0.02

    found = first_divergence(
        base, train(tmp_path / "b.zarr", network(), at_step(faster), kinds=KINDS)
    )
    assert found.place is not None
    assert (found.place.step, found.place.name) == (STEP, "scalars/learning_rate")


def test_a_slot_of_the_optimizer_that_is_changed_is_found(base: Path, tmp_path: Path) -> None:
    def forget(model: Any) -> None:
        for slot in model.optimizer.variables:
            if "hidden_kernel_velocity" in slot.path or "hidden_kernel_velocity" in slot.name:
                slot.assign(slot * 0)

    found = first_divergence(
        base, train(tmp_path / "b.zarr", network(), at_step(forget), kinds=KINDS)
    )
    assert found.place is not None
    assert (found.place.step, found.place.phase) == (STEP, "optimizer")
    assert "hidden/kernel" in found.place.path
    assert "nothing recorded before it differs" in str(found.origin)


def test_one_changed_pixel_of_one_sample_is_found(base: Path, tmp_path: Path) -> None:
    def changed(x: Any) -> Any:
        other = x.copy()
        other[STEP * 8 + 1, 4] += 1
        return other

    found = first_divergence(base, train(tmp_path / "b.zarr", network(), x=changed, kinds=KINDS))
    place = found.place
    assert place is not None
    assert (place.step, place.name, place.sample, place.unit) == (STEP, "inputs/x", 1, 4)
    assert found.recognised == ("other samples: 1 of the 8 samples of step 5 differ",)


def test_a_renamed_layer_is_matched_and_the_trainings_are_equal(base: Path, tmp_path: Path) -> None:
    found = first_divergence(base, train(tmp_path / "b.zarr", network(name="head"), kinds=KINDS))
    assert found.verdict == "equal"
    assert [match.how for match in found.renamed] == ["order and shape"]


def test_every_tenth_step_is_compared_with_every_step(base: Path, tmp_path: Path) -> None:
    path = train(tmp_path / "b.zarr", network(), every=4, kinds=KINDS)
    found = first_divergence(base, path)
    assert found.verdict == "equal"
    assert found.steps == "0, 4, 8"
    assert any(text.startswith("steps 1-3, 5-7: only in the first") for text in found.not_compared)


def test_another_batch_size_is_said_to_be_other_batches(base: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 6)).astype("f4"), rng.normal(size=(64, 2)).astype("f4")
    path = tmp_path / "b.zarr"
    tracer = Tracer(path, progress=False, on_error="raise", kinds=KINDS)
    network().fit(x, y, batch_size=16, shuffle=False, verbose=0, callbacks=[tracer])
    found = first_divergence(base, path)
    assert found.place is not None
    assert (found.place.step, found.place.phase) == (0, "batch")
    assert found.place.name in ("scalars/batch_size", "inputs/sample_digest")


def test_under_xla_the_difference_is_of_the_size_of_rounding(tmp_path: Path) -> None:
    def run(name: str, *, compiled: bool) -> Path:
        # XLA draws the numbers of dropout in another way, which is no matter of rounding.
        optimizer = keras.optimizers.SGD(0.01)
        model = network(rate=0.0, optimizer=optimizer, jit_compile=compiled)
        return train(tmp_path / name, model, kinds=KINDS)

    found = first_divergence(run("a.zarr", compiled=False), run("b.zarr", compiled=True))
    assert found.verdict == "rounding-sized"
    assert found.place is not None
    assert (found.place.step, found.place.phase) == (0, "forward")
