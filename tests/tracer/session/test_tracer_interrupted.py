"""A training that is interrupted in a process that goes on, as a cell of a notebook is."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_schema.errors import TraceExistsError
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer
from steptrace_tracer.session import beginning

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BATCH, STEPS = 8, 3


class _Interrupted(keras.callbacks.Callback):  # type: ignore[misc]
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 1:
            raise KeyboardInterrupt


def _in_fit(model: Any, tracer: Tracer, interrupted: bool) -> None:
    x, y = vectors(BATCH * STEPS)
    callbacks = [tracer, *([_Interrupted()] if interrupted else [])]
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=callbacks)


def _in_loop(model: Any, tracer: Tracer, interrupted: bool) -> None:
    x, y = vectors(BATCH * STEPS)
    step = tracer.wrap(model.train_on_batch)
    for number in range(STEPS):
        step(*(part[number * BATCH : (number + 1) * BATCH] for part in (x, y)))
        if interrupted and number == 1:
            raise KeyboardInterrupt
    tracer.close()


def _recorder(path: Path, **fields: Any) -> Tracer:
    return Tracer(path, on_error="raise", progress=False, **fields)


@pytest.mark.parametrize("train", [_in_fit, _in_loop])
@pytest.mark.parametrize("same", [True, False], ids=["same model", "another one"])
def test_its_trace_can_be_replaced_or_resumed(
    tmp_path: Path, train: Callable[[Any, Tracer, bool], None], same: bool
) -> None:
    for how, first in (("overwrite", 0), ("resume", 2)):
        path, model = tmp_path / f"{how}.zarr", mlp()
        with pytest.raises(KeyboardInterrupt):
            train(model, _recorder(path), True)
        if not same:
            left, model = weights_of(model), mlp()
            model.optimizer.build(model.trainable_variables)
            model.set_weights(left)
            model.optimizer.iterations.assign(2)
        if how == "overwrite":
            with pytest.raises(TraceExistsError):  # nobody asked to replace it
                train(model, _recorder(path), False)
        before = weights_of(model)
        train(model, _recorder(path, **{how: True}), False)
        found = read_attributes(path)
        assert (found.status, found.status_reason) == ("complete", None)
        group: Any = zarr.open_group(path, mode="r")
        assert np.asarray(group["scalars/step"]).tolist() == [*range(first), 2, 3, 4]
        kernels = np.asarray(group["weights/mlp/hidden/kernel"])
        assert kernels[-STEPS - 1].tobytes() == before[0].tobytes()
        assert kernels[-1].tobytes() == weights_of(model)[0].tobytes()
        assert validate(path) == []


@pytest.mark.parametrize("same", [True, False], ids=["same model", "another one"])
def test_the_same_tracer_goes_on_in_the_next_fit(tmp_path: Path, same: bool) -> None:
    path, model = tmp_path / "run.zarr", mlp()
    tracer, left = _recorder(path), model
    with pytest.raises(KeyboardInterrupt):
        _in_fit(model, tracer, True)
    if not same:
        model = mlp()
    _in_fit(model, tracer, False)
    assert read_attributes(path).status == "complete"
    group: Any = zarr.open_group(path, mode="r")
    assert np.asarray(group["scalars/step"]).tolist() == [0, 1, 2, 3, 4]
    kernel = np.asarray(group["weights/mlp/hidden/kernel"])[-1]
    assert kernel.tobytes() == weights_of(model)[0].tobytes()
    assert validate(path) == []
    left.fit(*vectors(BATCH), verbose=0)  # its own train function is back


def test_nothing_of_a_training_that_has_ended_is_kept(tmp_path: Path) -> None:
    before = len(beginning._SESSIONS)
    for number in range(3):
        tracer = Tracer(tmp_path / f"{number}.zarr", on_error="raise", progress=False)
        _in_fit(mlp(), tracer, interrupted=False)
    del tracer
    keras.utils.clear_session()
    gc.collect()
    assert len(beginning._SESSIONS) <= before
