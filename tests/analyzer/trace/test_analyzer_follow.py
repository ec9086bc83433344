"""Reading a trace while other processes write it."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr

import kills
from journals import attributes, random_steps, write_journal
from steptrace_analyzer.trace.follow import follow
from steptrace_analyzer.trace.open import open_trace, trace_attributes
from steptrace_schema.moving.journal_mover import JournalMover
from steptrace_schema.moving.recover import recover
from steptrace_schema.storage.locks import exclusive

if TYPE_CHECKING:
    from steptrace_schema.format.attributes import TraceAttributes

_TRAINING = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from journals import attributes, random_steps, write_journal
steps = random_steps(9)
writer = write_journal(Path(sys.argv[1]), steps[:3], specify_for=steps)
print("begun", flush=True)
sys.stdin.readline()
for step in steps[3:]:
    writer.append(*step)
writer.close("complete", None, attributes())
print("closed", flush=True)
"""
"""A training whose recorder has not begun to work, or is dead."""


def test_follow_yields_each_time_there_are_new_steps_and_ends_with_the_run(tmp_path: Path) -> None:
    store, steps = tmp_path / "run.zarr", random_steps(9)
    waits: list[float] = []

    def begin() -> None:
        writer = write_journal(store, steps[:3], specify_for=steps, shard_steps=4)
        lock = exclusive(writer.directory)
        lock.__enter__()
        events.extend(
            [
                lambda: [writer.append(*s) for s in steps[3:7]],
                lambda: JournalMover(writer.directory, store).move_ready(),  # nothing new
                lambda: [writer.append(*s) for s in steps[7:]],
                lambda: writer.close("complete", None, attributes(shard_steps=4)),
                lambda: lock.__exit__(None, None, None),
            ]
        )

    events: list[object] = [begin]

    def wait(seconds: float) -> None:
        waits.append(seconds)
        event = events.pop(0)
        assert callable(event)
        event()

    seen = []
    for trace in follow(store, interval=2.5, wait=wait):
        loss = trace["scalars/loss"]
        assert isinstance(loss, xr.DataArray)
        expected = [arrays["scalars/loss"] for _, arrays in steps if "scalars/loss" in arrays]
        assert loss.to_numpy().tobytes() == np.stack(expected)[: loss.size].tobytes()
        seen.append((loss.size, trace_attributes(trace).status))
    assert seen == [(3, "recording"), (7, "recording"), (9, "recording"), (9, "complete")]
    assert set(waits) == {2.5}


@pytest.mark.parametrize("end", ["it closes", "it is killed"])
def test_follow_goes_on_while_the_training_lives_whatever_its_recorder_does(
    tmp_path: Path, end: str
) -> None:
    store = tmp_path / "run.zarr"
    command = [sys.executable, "-c", _TRAINING, str(store)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as training:
        assert training.stdin is not None
        assert training.stdout is not None
        assert training.stdout.readline() == "begun\n"
        waits = 0

        def wait(_: float) -> None:
            nonlocal waits
            waits += 1
            if waits < 3:  # nothing new, and not the end
                return
            assert training.stdin is not None
            assert training.stdout is not None
            if end == "it closes":
                training.stdin.write("\n")
                training.stdin.flush()
                assert training.stdout.readline() == "closed\n"
            else:
                training.kill()
                training.wait()

        seen = [
            (trace["scalars"].sizes["step"], trace_attributes(trace).status)
            for trace in follow(store, wait=wait)
        ]
    last = (9, "complete") if end == "it closes" else (3, "incomplete")
    assert seen == [(3, "recording"), last]
    assert waits == 3


@pytest.mark.parametrize("moment", ["read_attributes", "stored_arrays"])
def test_a_run_that_ends_while_it_is_opened_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    store, steps = tmp_path / "run.zarr", random_steps(9)
    writer = write_journal(store, steps, shard_steps=4)
    next(JournalMover(writer.directory, store).move_all())
    alive = [writer]
    del writer

    def end_first(*arguments: Any) -> Any:
        monkeypatch.undo()
        alive.pop().close("complete", None, attributes(shard_steps=4))
        recover(store)
        return getattr(sys.modules["steptrace_analyzer.trace.open"], moment)(*arguments)

    monkeypatch.setattr(f"steptrace_analyzer.trace.open.{moment}", end_first)
    trace = open_trace(store)
    assert not alive
    assert trace_attributes(trace).status == "complete"
    assert trace["scalars"].sizes["step"] == 9


def test_a_reader_beside_writer_and_recorder_always_sees_a_prefix(tmp_path: Path) -> None:
    store, steps = tmp_path / "run.zarr", kills.known_steps()
    forks = multiprocessing.get_context("forkserver")
    ours, theirs = forks.Pipe()
    # Nobody is killed.
    process = forks.Process(
        target=kills.run, args=(store, {}, theirs), kwargs={"step_by_step": True}
    )
    process.start()
    theirs.close()
    before, moves = 0, set[int]()

    def look() -> TraceAttributes:
        """Check all that is there; return what it says of itself."""
        nonlocal before
        tree = open_trace(store)
        count = tree["weights"].sizes["step"]
        assert count >= before
        before = count
        for key in ("weights/dense/kernel", "activations/dense/output", "gradients/dense/kernel"):
            rows = [(s, a[key]) for s, a in steps[:count] if key in a]
            found = tree[key]
            assert isinstance(found, xr.DataArray)
            assert found.step.values.tolist() == [s for s, _ in rows]
            for row, (_, values) in zip(found.to_numpy(), rows, strict=True):
                assert row[: len(values)].tobytes() == values.tobytes()
        return trace_attributes(tree)

    for written in range(1, len(steps) + 1):
        assert ours.recv() == written - 1
        movable = written // kills.SHARD_STEPS * kills.SHARD_STEPS
        while (found := look()).records < movable:  # the recorder is at it
            assert found.status == "recording"
        assert (found.status, before) == ("recording", written)
        if 0 < found.records < written:
            moves.add(found.records)
        ours.send(None)
    while (found := look()).status != "complete" or process.is_alive():
        assert found.status in ("recording", "complete")
    assert before == len(steps)
    assert moves == {4, 8, 12}  # after each of which there were rows in store and journal
