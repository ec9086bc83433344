"""A training whose trace may only take so much of the disk."""

from __future__ import annotations

import contextlib
import threading
import warnings
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import zarr

from disk_use import DiskUse, taken
from keras_models import vectors, weights_of
from steptrace_schema.journal.where import journal_path
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer, around, last

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EPOCHS = 50
STEPS = 3 * EPOCHS
LIMIT = 1_500_000


def _model() -> Any:
    keras.utils.set_random_seed(7)
    hidden = keras.layers.Dense(64, activation="tanh", name="hidden")
    layers = [keras.Input((3,)), hidden, keras.layers.Dense(2, name="out")]
    model = keras.Sequential(layers, name="mlp")
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def _fit(callbacks: list[Any], model: Any = None, epochs: int = EPOCHS) -> list[Any]:
    """Train, and return the warnings of the tracer and the weights."""
    model, (x, y) = model or _model(), vectors()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    said = [str(w.message) for w in caught if w.category is RuntimeWarning]
    return [said, *weights_of(model)]


@pytest.fixture(scope="module")
def untraced() -> list[Any]:
    """Return the weights of the training without a tracer."""
    return _fit([])[1:]


@contextlib.contextmanager
def _sampling(store: Path) -> Iterator[DiskUse]:
    """Measure over and over, in a thread, what the trace takes."""
    use, ended = DiskUse(store), threading.Event()

    def sample() -> None:
        while not ended.wait(0.001):
            use.look()

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield use
    finally:
        ended.set()
        thread.join()
        use.look()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("retain", ["all", last(8, every=10), around("mark", "crash")])
def test_a_trace_stays_within_its_limit_and_the_training_is_not_changed(
    tmp_path: Path, untraced: list[Any], retain: Any
) -> None:
    store = tmp_path / "run.zarr"
    tracer = Tracer(store, disk_limit=LIMIT, retain=retain, progress=False)
    with _sampling(store) as use:
        said, *weights = _fit([tracer])
    assert use.looks > STEPS
    assert 0 < use.most <= LIMIT
    for left, right in zip(untraced, weights, strict=True):
        assert left.tobytes() == right.tobytes()
    assert not journal_path(store).exists()
    assert validate(store) == []
    found = read_attributes(store)
    assert found.policy.disk_limit == LIMIT
    group = zarr.open_group(store, mode="r")
    steps = np.asarray(group["scalars/step"])
    assert steps.tolist() == list(range(len(steps)))
    assert np.asarray(group["statistics/activations/step"]).tolist() == steps.tolist()
    if found.status == "complete":
        assert said == []
        assert len(steps) == STEPS
    else:
        reason = f"the policy's disk_limit of 1.5 MB was used up at step {len(steps)}"
        assert found.status_reason == reason
        assert len(said) == 1
        assert reason in said[0]
    if retain == "all":
        kept = np.asarray(group["gradients/step"]).tolist()
        assert 8 < len(kept) < len(steps)
        assert any("every 2nd step keeps its tensors" in e.message for e in found.events)


def test_a_limit_without_room_for_one_step_is_said_at_once_with_one_that_has(
    tmp_path: Path, untraced: list[Any]
) -> None:
    store = tmp_path / "run.zarr"
    with _sampling(store) as use:
        said, *weights = _fit([Tracer(store, disk_limit=200_000, progress=False)])
    (text,) = said
    assert "step 0 takes 10.4 kB" in text
    assert "the policy's disk_limit of 200 kB has no room for" in text
    assert "set it to at least" in text
    assert "training continues" in text
    for left, right in zip(untraced, weights, strict=True):
        assert left.tobytes() == right.tobytes()
    assert use.most <= 200_000
    found = read_attributes(store)
    assert found.status == "incomplete"
    assert "has no room for" in str(found.status_reason)
    assert not journal_path(store).exists()


def test_the_limit_that_is_named_has_room(tmp_path: Path) -> None:
    store = tmp_path / "small.zarr"
    (text,) = _fit([Tracer(store, disk_limit=150_000, progress=False)], epochs=1)[0]
    number, unit = text.partition("at least ")[2].split(",")[0].split(" ")
    named = int(float(number) * {"kB": 1000, "MB": 1_000_000}[unit])
    store = tmp_path / "large.zarr"
    said = _fit([Tracer(store, disk_limit=named, progress=False)], epochs=2)[0]
    assert said == []
    assert read_attributes(store).status == "complete"
    assert taken(store) <= named
    assert validate(store) == []


def test_a_trace_that_goes_on_counts_what_is_there(tmp_path: Path) -> None:
    store, model = tmp_path / "run.zarr", _model()
    with _sampling(store) as use:
        for _ in range(3):
            tracer = Tracer(store, disk_limit=LIMIT, resume=True, progress=False)
            _fit([tracer], model, epochs=10)
    assert 0 < use.most <= LIMIT
    found = read_attributes(store)
    assert any("every 2nd step" in event.message for event in found.events)
    assert validate(store) == []
    before = found.status
    (text,) = _fit([Tracer(store, disk_limit=200_000, resume=True, progress=False)], model, 1)[0]
    assert "leaves no room within the policy's disk_limit of 200 kB" in text
    assert read_attributes(store).status == before
