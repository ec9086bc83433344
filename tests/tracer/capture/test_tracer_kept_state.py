"""While steps are compared, a large state is kept on the disk, and nothing of it is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_models import mlp, vectors
from steptrace_schema.store.opening import read_attributes
from steptrace_tracer import Tracer
from steptrace_tracer.capture import state
from steptrace_tracer.capture.stored_values import StoredValues
from steptrace_tracer.capture.traced_step import TracedStep

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take every state for a large one."""
    monkeypatch.setattr(state, "IN_MEMORY", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    keras.utils.clear_session()


def train(*callbacks: Any) -> list[bytes]:
    model = mlp()
    x, y = vectors(40)
    model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    return [v.numpy().tobytes() for v in (*model.variables, *model.optimizer.variables)]


@pytest.mark.parametrize("way", ["inside", "beside"])
def test_a_training_is_what_it_is_without_the_tracer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    kept: list[StoredValues] = []
    init = StoredValues.__init__

    def noted(self: StoredValues, *args: Any) -> None:
        init(self, *args)
        kept.append(self)

    monkeypatch.setattr(StoredValues, "__init__", noted)
    run = TracedStep.run

    def one_bit(self: TracedStep, args: Any, kwargs: Any, original: Any) -> Any:
        result = run(self, args, kwargs, original)
        bias = self.program.models[0].layers[-1].bias
        bias.assign(np.nextafter(bias.numpy(), np.float32(9)))
        return result

    if way == "beside":
        monkeypatch.setattr(TracedStep, "run", one_bit)
    path = tmp_path / "made" / "run.zarr"
    traced = train(Tracer(path, on_error="raise", progress=False))
    assert len(kept) >= 2
    assert traced == train()
    assert set(read_attributes(path).capture.values()) == {way}


def test_values_are_those_that_variables_had(tmp_path: Path) -> None:
    values = [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.float64(0.1),
        np.array([True, False]),
        np.int64(-(2**60)),
        np.zeros((0, 4), np.float16),
    ]
    variables = [*map(tf.Variable, values), tf.Variable([1.5, -2.0], dtype=tf.bfloat16)]
    kept = StoredValues(variables, tmp_path)
    before = [variable.numpy() for variable in variables]
    for variable in variables[:-2]:
        variable.assign(tf.zeros_like(variable))
    assert len(kept) == len(before)
    for found, expected in zip(kept, before, strict=True):
        assert found.dtype.as_numpy_dtype == expected.dtype
        assert found.shape == expected.shape
        assert found.numpy().tobytes() == expected.tobytes()
    assert not list(tmp_path.iterdir())  # the file has no name


def test_what_has_no_room_on_the_disk_is_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StoredValues, "__init__", full)
    path = tmp_path / "run.zarr"
    assert train(Tracer(path, on_error="raise", progress=False)) == train()
    assert set(read_attributes(path).capture.values()) == {"inside"}
