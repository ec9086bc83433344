"""Reading a trace while other processes write it."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

import kills
from journals import attributes, random_steps, write_journal
from steptrace_analyzer.follow import follow
from steptrace_analyzer.open import open_trace, trace_attributes
from steptrace_schema.compact import Compactor
from steptrace_schema.locks import exclusive

if TYPE_CHECKING:
    from pathlib import Path


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
                lambda: Compactor(writer.directory, store).move_ready(),  # nothing new
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


def test_a_reader_beside_writer_and_recorder_always_sees_a_prefix(tmp_path: Path) -> None:
    store, steps = tmp_path / "run.zarr", kills.known_steps()
    forks = multiprocessing.get_context("forkserver")
    receiving, sending = forks.Pipe(duplex=False)
    process = forks.Process(target=kills.run, args=(store, {}, sending))  # nobody is killed
    process.start()
    sending.close()
    assert receiving.recv() == 0
    before, looks = 0, 0
    while True:
        over = not process.is_alive()
        tree = open_trace(store)
        count = tree["weights"].sizes["step"]
        assert count >= before
        for key in ("weights/dense/kernel", "activations/dense/output", "gradients/dense/kernel"):
            rows = [(s, a[key]) for s, a in steps[:count] if key in a]
            found = tree[key]
            assert isinstance(found, xr.DataArray)
            assert found.step.values.tolist() == [s for s, _ in rows]
            for row, (_, values) in zip(found.to_numpy(), rows, strict=True):
                assert row[: len(values)].tobytes() == values.tobytes()
        before, looks = count, looks + 1
        if over:
            break
    assert before == len(steps)
    assert looks > 1
