"""Steps on their way into the journal, and which of them have a slot of its ring."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

from journals import attributes
from steptrace_schema.format.policy import Policy
from steptrace_schema.journal.where import journal_path
from steptrace_tracer.record.pending_step import Collected, PendingStep
from steptrace_tracer.record.recording import Recording

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 60


def _put(recording: Recording, step: int, elements: int = 3) -> None:
    arrays = {"logged/value": np.full(elements, step, np.float64)}
    recording.put(PendingStep(step, lambda: Collected(arrays)))


def _close(recording: Recording, store: Path) -> list[float]:
    recording.close("complete", None, lambda _: None)
    found = np.asarray(zarr.open_group(store, mode="r")["logged/value"])
    return [float(row[0]) for row in found]


def test_what_several_threads_hand_over_is_all_there(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    recording = Recording(store, attributes(), 2**30)
    _put(recording, 0)

    def hand_over(first: int) -> None:
        for step in range(first, STEPS, 4):
            _put(recording, step)

    threads = [threading.Thread(target=hand_over, args=(first,)) for first in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(_close(recording, store)) == list(range(STEPS))


def test_steps_have_slots_and_those_that_are_larger_have_files(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    recording = Recording(store, attributes(), 2**30)
    journal = journal_path(store)
    for step in range(5):
        _put(recording, step, 20_000 if step == 3 else 3)
    assert (journal / "ring").stat().st_blocks * 512 < 200_000
    assert [path.name for path in journal.glob("*.safetensors")] == ["00000003.safetensors"]
    assert _close(recording, store) == [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("policy", "journal_limit"), [(Policy(disk_limit=10**8), 2**30), (Policy(), 10_000)]
)
def test_there_is_no_ring_where_bytes_are_counted_or_few(
    tmp_path: Path, policy: Policy, journal_limit: int
) -> None:
    store = tmp_path / "run.zarr"
    recording = Recording(store, attributes(policy=policy), journal_limit)
    for step in range(3):
        _put(recording, step)
    assert not (journal_path(store) / "ring").exists()
    assert _close(recording, store) == [0.0, 1.0, 2.0]
