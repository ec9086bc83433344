"""What a tracer leaves behind in the process: no memory, and nothing in the model."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import psutil
import pytest
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_schema.store.opening import read_attributes
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path


class Memory(keras.callbacks.Callback):  # type: ignore[misc]
    """Notes the resident memory of this process, MiB, after every hundredth step."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.resident: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.step += 1
        if self.step % 100 == 0:
            self.resident.append(psutil.Process().memory_info().rss / 2**20)


@pytest.mark.slow
def test_a_run_of_a_thousand_steps_does_not_grow(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2000), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    kinds = ("weights", "activations")
    tracer = Tracer(tmp_path / "run.zarr", kinds=kinds, profile="none", progress=False)
    memory = Memory()
    x, y = vectors(16)
    model.fit(x, y, batch_size=8, epochs=500, verbose=0, callbacks=[tracer, memory])
    assert read_attributes(tmp_path / "run.zarr").steps_recorded["activations"] == 1000
    recorded = sum(array.nbytes for array in model.get_weights()) * 1000 / 2**20
    growth = memory.resident[-1] - memory.resident[1]
    # What is recorded would take twice as much with the activations, were it kept.
    assert growth < 12 < recorded / 3, memory.resident


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras
def test_two_tracers_one_after_the_other_and_a_copy_record_the_same(tmp_path: Path) -> None:
    x, y = vectors(16)

    def train(model: Any, callbacks: list[Any]) -> Any:
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
        return model

    paths = [tmp_path / f"{name}.zarr" for name in ("first", "second", "copy")]
    tracers = [
        Tracer(path, kinds=("weights", "gradients"), on_error="raise", progress=False)
        for path in paths
    ]
    model = train(mlp(), tracers[:1])
    copied = copy.deepcopy(model)
    train(model, tracers[1:2])
    train(copied, tracers[2:])
    recorded = []
    for path in paths[1:]:
        group, declared = zarr.open_group(path, mode="r"), read_attributes(path).declared
        keys = [f"{kind}/{name}" for kind in ("weights", "gradients") for name in declared[kind]]
        recorded.append([np.asarray(group[key]).tobytes() for key in keys])
    assert len(recorded[0]) == 8
    assert recorded[0] == recorded[1]
    for left, right in zip(weights_of(model), weights_of(copied), strict=True):
        assert left.tobytes() == right.tobytes()
    plain = train(train(mlp(), []), [])
    for left, right in zip(weights_of(plain), weights_of(model), strict=True):
        assert left.tobytes() == right.tobytes()
