"""What is left when a process dies: the trainer, the recorder, or both."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf
import zarr

from keras_models import mlp, vectors, weights_of
from steptrace_schema.journal.where import journal_path
from steptrace_schema.journal.writer import JournalWriter
from steptrace_schema.moving.recover import recover
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer

if TYPE_CHECKING:
    import numpy.typing as npt

EPOCHS = 5
KILLED_AT = 10
"""Step after which the process is killed; a shard holds more."""

_SCRIPT = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import keras, psutil
from keras_models import mlp, vectors
from steptrace_tracer import Tracer, around

class Kill(keras.callbacks.Callback):
    steps = 0
    def on_train_batch_end(self, batch, logs=None):
        if Kill.steps == {KILLED_AT}:
            if sys.argv[2] == "both":
                for recorder in psutil.Process().children():
                    recorder.kill()
                    recorder.wait()
            psutil.Process().kill()
        Kill.steps += 1

x, y = vectors()
retain = around("crash", before=int(sys.argv[3])) if len(sys.argv) > 3 else "all"
tracer = Tracer(sys.argv[1], on_error="raise", retain=retain, probe_gradients_every=1)
mlp().fit(x, y, batch_size=8, epochs={EPOCHS}, shuffle=False, verbose=0, callbacks=[tracer, Kill()])
"""


def fit(callbacks: list[Any]) -> Any:
    model, (x, y) = mlp(), vectors()
    model.fit(x, y, batch_size=8, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=callbacks)
    return model


def recorders_of(store: Path) -> list[psutil.Process]:
    """Return the processes that record the trace at `store`."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(store) in (process.info["cmdline"] or [])
    ]


def wait_for_recorder(store: Path) -> None:
    """Wait until no recorder of the trace at `store` runs any more."""
    _, alive = psutil.wait_procs(recorders_of(store), timeout=60)
    assert not alive


def arrays_of(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return everything but the times and what is derived."""
    members = zarr.open_group(path, mode="r").members(max_depth=None)
    return {
        key: np.asarray(array)
        for key, array in members
        if isinstance(array, zarr.Array)
        and not key.startswith("statistics/")
        and key not in ("scalars/wall_time", "scalars/step_duration")
    }


@pytest.mark.sampled(1)
@pytest.mark.parametrize("dead", ["trainer", "both"])
def test_a_killed_training_keeps_every_step_but_the_one_in_flight(
    tmp_path: Path, dead: str
) -> None:
    killed, whole = tmp_path / "killed.zarr", tmp_path / "whole.zarr"
    run = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(killed), dead], capture_output=True, text=True
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    wait_for_recorder(killed)
    if dead == "both":
        assert journal_path(killed).exists()
        assert recover(killed) >= KILLED_AT
    fit([Tracer(whole, on_error="raise", progress=False, probe_gradients_every=1)])
    assert validate(killed) == []
    assert not journal_path(killed).exists()
    found = read_attributes(killed)
    assert found.status == "incomplete"
    assert "without closing" in str(found.status_reason)
    recorded, expected = arrays_of(killed), arrays_of(whole)
    assert recorded.keys() == expected.keys()
    steps = found.steps_recorded["scalars"]
    assert KILLED_AT <= steps <= KILLED_AT + 1
    for key, values in recorded.items():
        if key != "probe/x":
            assert len(values) == steps
        assert values.tobytes() == expected[key][: len(values)].tobytes()


@pytest.mark.slow
def test_a_killed_training_that_retains_what_is_before_a_crash_keeps_it(tmp_path: Path) -> None:
    path, before = tmp_path / "run.zarr", 6
    run = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(path), "trainer", str(before)], capture_output=True
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    wait_for_recorder(path)
    assert validate(path) == []
    assert read_attributes(path).status == "incomplete"
    group = zarr.open_group(path, mode="r")
    steps = np.asarray(group["scalars/step"]).tolist()
    assert steps == list(range(len(steps)))
    assert KILLED_AT <= len(steps) <= KILLED_AT + 1
    for kind in ("weights", "gradients"):
        assert np.asarray(group[f"{kind}/step"]).tolist() == steps[-before:]
        assert np.asarray(group[f"statistics/{kind}/step"]).tolist() == steps
    expected = tmp_path / "whole.zarr"
    fit([Tracer(expected, on_error="raise", progress=False)])
    whole = arrays_of(expected)["gradients/mlp/out/kernel"]
    found = np.asarray(group["gradients/mlp/out/kernel"])
    assert found.tobytes() == whole[steps[-before] : len(steps)].tobytes()


def test_the_training_goes_on_when_the_recorder_dies_and_its_steps_can_be_recovered(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run.zarr"

    class Kill(keras.callbacks.Callback):  # type: ignore[misc]
        steps = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if Kill.steps == 4:
                for process in psutil.Process().children():
                    if str(path) in process.cmdline():
                        process.send_signal(signal.SIGKILL)
                        psutil.wait_procs([process], timeout=60)
            Kill.steps += 1

    with pytest.warns(RuntimeWarning) as caught:
        traced = fit([Tracer(path), Kill()])
    (warning,) = caught
    said = str(warning.message)
    assert said.startswith(f"{path}: tracing stopped: the recorder process failed (it ended early,")
    assert said.count(f"'steptrace recover {path}' finishes the trace") == 1
    assert said.endswith("; the training continues without the tracer, and earlier steps are kept")
    for left, right in zip(weights_of(fit([])), weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()
    assert recover(path) >= 5
    assert validate(path) == []
    assert "recorder process failed" in str(read_attributes(path).status_reason)


_FORKING_SCRIPT = f"""
import atexit, os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import keras
from keras_models import mlp, vectors
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.where import (journal_path)
from steptrace_tracer import Tracer

class Fork(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        child = os.fork()
        if child == 0:
            atexit._run_exitfuncs()  # as a normal end does, before TensorFlow is torn down
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert JournalReader(journal_path(sys.argv[1])).closing() is None

x, y = vectors()
tracer = Tracer(sys.argv[1], on_error="raise", progress=False)
mlp().fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[tracer, Fork()])
"""


def test_the_end_of_a_process_that_the_training_forked_is_not_that_of_the_trace(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run.zarr"
    run = subprocess.run(
        [sys.executable, "-c", _FORKING_SCRIPT, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert read_attributes(path).status == "complete"
    assert read_attributes(path).steps_recorded["scalars"] == 3
    assert validate(path) == []


def test_a_disk_that_is_full_for_everything_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.zarr"
    append = JournalWriter.append

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    def soon_full(self: JournalWriter, step: int, arrays: Any) -> int:
        if step == 3:
            full()
        return append(self, step, arrays)

    monkeypatch.setattr(JournalWriter, "append", soon_full)
    monkeypatch.setattr(JournalWriter, "close", full)
    with pytest.warns(RuntimeWarning) as caught:
        traced = fit([Tracer(path)])
    assert [str(warning.message) for warning in caught] == [
        f"{path}: tracing stopped: a step could not be recorded ([Errno 28] No space left on "
        "device); the training continues without the tracer, and earlier steps are kept: free space"
    ]
    for left, right in zip(weights_of(fit([])), weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()
    wait_for_recorder(path)
    assert validate(path) == []
    assert read_attributes(path).steps_recorded["scalars"] == 3


def test_a_full_journal_holds_the_training_up_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    traced = fit([Tracer(path, on_error="raise", journal_limit=1)])
    for left, right in zip(weights_of(fit([])), weights_of(traced), strict=True):
        assert left.tobytes() == right.tobytes()
    assert validate(path) == []
    found = read_attributes(path)
    assert found.status == "complete"
    (event,) = found.events
    assert event.message.startswith("training waited because the journal")
    assert event.step in range(1, 15)  # the recorder may have moved the first ones in time


def test_a_step_that_waits_for_a_recorder_that_dies_is_kept(tmp_path: Path) -> None:
    path, stopped_at = tmp_path / "run.zarr", 3

    class Stop(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if int(self.model.optimizer.iterations) - 1 == stopped_at:
                (recorder,) = recorders_of(path)
                recorder.suspend()
                # The next step waits until it has moved this one.
                threading.Timer(1, recorder.kill).start()

    with pytest.warns(RuntimeWarning, match="the recorder process failed"):
        fit([Tracer(path, journal_limit=1, progress=False), Stop()])
    assert recover(path) > 0
    assert validate(path) == []
    steps = np.asarray(zarr.open_group(path, mode="r")["scalars/step"]).tolist()
    assert steps == [*range(stopped_at + 2)]


def test_data_that_cannot_be_read_ends_the_trace_with_that_reason(tmp_path: Path) -> None:
    x, y = vectors()

    def parse(number: Any) -> Any:
        tf.debugging.assert_less(number, np.int64(3), "a bad file")
        return tf.gather(x, [number]), tf.gather(y, [number])

    data = tf.data.Dataset.range(5).map(parse)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a bad file"):
        mlp().fit(data, verbose=0, shuffle=False, callbacks=[Tracer(tmp_path / "run.zarr")])
    found = read_attributes(tmp_path / "run.zarr")
    assert found.status == "incomplete"
    assert "a bad file" in str(found.status_reason)
    assert found.steps_recorded["scalars"] == 3


def test_a_tracer_follows_one_whose_fit_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is remembered, so that the proof has Keras compile its own function.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    class Stop(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 1:
                raise KeyboardInterrupt

    model, (x, y) = mlp(), vectors()
    first, second = tmp_path / "first.zarr", tmp_path / "second.zarr"
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[Tracer(first), Stop()])
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[Tracer(second, on_error="raise")])
    assert model.train_function.__module__.startswith("keras")
    assert read_attributes(first).status == "incomplete"
    assert read_attributes(first).steps_recorded["scalars"] == 2
    group = zarr.open_group(second, mode="r")
    assert np.asarray(group["scalars/step"]).tolist() == [2, 3, 4]
    assert read_attributes(second).status == "complete"
