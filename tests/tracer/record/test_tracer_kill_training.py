"""Trainings whose processes are killed at random moments, compared with one that is not."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from steptrace_analyzer.trace.open import open_trace
from steptrace_schema.journal.where import journal_path
from steptrace_schema.moving.recover import recover
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr

pytestmark = pytest.mark.slow

_TIMES = ("scalars/wall_time", "scalars/step_duration")

_SCRIPT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import keras
from keras_models import mlp, vectors
from steptrace_tracer import Tracer

class Count(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print("step", flush=True)

x, y = vectors()
tracer = Tracer(sys.argv[1], on_error="raise", progress=False, journal_limit=200_000)
mlp().fit(x, y, batch_size=8, epochs=50, shuffle=False, verbose=0, callbacks=[Count(), tracer])
print("over", flush=True)
"""
"""Little room for the journal, so that records are moved all the time."""

STEPS = 150


def _start(store: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", _SCRIPT, store], stdout=-1, text=True)


def _values(tree: xr.DataTree) -> dict[str, npt.NDArray[Any]]:
    """Return every array but the times; statistics too."""
    return {
        f"{group.path}/{name}".lstrip("/"): array.to_numpy()
        for group in tree.subtree
        for name, array in group.dataset.variables.items()
        if f"{group.path}/{name}".lstrip("/") not in _TIMES
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, npt.NDArray[Any]], float]:
    """Return the values of an uninterrupted run, and how many seconds a step of it takes."""
    store = tmp_path_factory.mktemp("whole") / "run.zarr"
    with _start(store) as process:
        assert process.stdout is not None
        process.stdout.readline()
        begin = time.perf_counter()
        assert process.stdout.read().count("step") == STEPS - 1
        seconds = time.perf_counter() - begin
    return _values(open_trace(store)), seconds / STEPS


def _kill_somebody(process: subprocess.Popen[str], store: Path, victim: str) -> None:
    recorders = [p for p in psutil.Process(process.pid).children() if str(store) in p.cmdline()]
    if victim != "trainer":
        for recorder in recorders:
            recorder.kill()
    if victim != "recorder":
        process.kill()


def _await_recorder(store: Path) -> None:
    for process in psutil.process_iter(["cmdline"]):
        if str(store) in (process.info["cmdline"] or []):
            psutil.wait_procs([process], timeout=60)


@pytest.mark.parametrize(
    ("victim", "trial"),
    [
        *(("trainer", trial) for trial in range(50)),
        *(("recorder", trial) for trial in range(50, 65)),
        *(("both", trial) for trial in range(65, 80)),
    ],
)
def test_a_training_killed_at_any_moment_keeps_all_steps_that_were_done(
    tmp_path: Path, victim: str, trial: int, whole: tuple[dict[str, npt.NDArray[Any]], float]
) -> None:
    expected, seconds = whole
    chance = random.Random(trial)
    store = tmp_path / "run.zarr"
    with _start(store) as process:
        assert process.stdout is not None
        done = chance.randint(1, STEPS)  # after the last one, the trace is being closed
        for _ in range(done):
            assert process.stdout.readline() == "step\n"
        time.sleep(chance.uniform(0, seconds))
        _kill_somebody(process, store, victim)
        done += process.stdout.read().count("step")
    assert (process.returncode == -signal.SIGKILL) == (victim != "recorder")
    _await_recorder(store)
    tree = open_trace(store)
    found = _values(tree)
    steps = len(found["scalars/step"])
    assert done <= steps <= done + 1  # a step may be written that was not said to be done
    _assert_prefix(found, expected)
    recover(store)
    assert not journal_path(store).exists()
    assert validate(store) == []
    assert read_attributes(store).status in ("incomplete", "complete")
    recovered = _values(open_trace(store))
    _assert_prefix(recovered, expected)
    assert len(recovered["scalars/step"]) == steps
    assert recover(store) == 0


def _assert_prefix(
    found: dict[str, npt.NDArray[Any]], expected: dict[str, npt.NDArray[Any]]
) -> None:
    assert found.keys() == expected.keys()
    for key, values in found.items():
        if values.dtype.kind not in "OUT":
            assert values.tobytes() == expected[key][: len(values)].tobytes(), key
