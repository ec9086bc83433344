"""Fifty deaths of the trainer, the recorder, or both: every acknowledged step is there."""

from __future__ import annotations

import multiprocessing
import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
import zarr

import kills
from steptrace_analyzer.open import open_trace
from steptrace_schema.compact import recover
from steptrace_schema.errors import NotATraceError
from steptrace_schema.layout import fill_value
from steptrace_schema.location import journal_path
from steptrace_schema.locks import is_being_moved
from steptrace_schema.store import read_attributes
from steptrace_schema.validate import Problem, validate

if TYPE_CHECKING:
    from pathlib import Path

    from journals import Arrays

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["kills", "steptrace_tracer.recorder_process"])

_VICTIMS: tuple[kills.Victim, ...] = ("trainer", "recorder", "both")


def _deaths(count: int) -> list[Any]:
    """Draw who dies, and at which file operation or after which time; the same every time."""
    chance = random.Random(0)
    deaths: list[tuple[kills.Victim, int, float]] = [
        (chance.choice(_VICTIMS), chance.randrange(1, 110), 0.0)
        if number % 2
        else (chance.choice(_VICTIMS), 0, chance.uniform(0.001, 0.25))
        for number in range(count)
    ]
    # A third of them by default: each takes a second.
    return [
        pytest.param(*death, marks=[pytest.mark.slow] if number % 3 else [])
        for number, death in enumerate(deaths)
    ]


def _run(store: Path, victim: kills.Victim, operation: int, seconds: float) -> int:
    """Run until all processes have ended; return how many steps were acknowledged."""
    receiving, sending = _FORKS.Pipe(duplex=False)
    arguments = (store, victim, operation, seconds, sending)
    process = _FORKS.Process(target=kills.run, args=arguments)
    process.start()
    sending.close()
    count = 0
    try:
        while True:
            receiving.recv()
            count += 1
    except EOFError:  # both ends of the trainer and of the recorder, which it forked, are closed
        process.join()
    while is_being_moved(journal_path(store)):  # a killed process closes its files one by one
        time.sleep(0.001)
    return count


def _assert_holds(tree: xr.DataTree, steps: list[tuple[int, Arrays]]) -> None:
    for key in {key for _, arrays in steps for key in arrays}:
        rows = [(step, arrays[key]) for step, arrays in steps if key in arrays]
        found = tree[key]
        assert isinstance(found, xr.DataArray)
        assert found.step.values.tolist() == [step for step, _ in rows], key
        for row, (_, values) in zip(found.to_numpy(), rows, strict=True):
            whole = np.full(row.shape, fill_value(str(values.dtype)), values.dtype)
            whole[tuple(slice(0, extent) for extent in values.shape)] = values
            assert row.tobytes() == whole.tobytes(), key


def _files(store: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def _problems(store: Path) -> list[Problem]:
    """Return what is wrong, but for the scalars that these small traces do not have."""
    return [problem for problem in validate(store) if problem.rule != "R11"]


@pytest.mark.parametrize(("victim", "operation", "seconds"), _deaths(50))
def test_no_acknowledged_step_is_lost(
    tmp_path: Path, victim: kills.Victim, operation: int, seconds: float
) -> None:
    store, steps = tmp_path / "run.zarr", kills.known_steps()
    acknowledged = _run(store, victim, operation, seconds)
    if acknowledged == 0 and not journal_path(store).exists():
        with pytest.raises(NotATraceError):
            open_trace(store)
        return
    tree = open_trace(store)
    # The record in flight may be there too.
    count = tree["weights"].sizes["step"] if "weights" in tree else 0
    assert acknowledged <= count <= acknowledged + 1
    _assert_holds(tree, steps[:count])
    recover(store)
    assert not journal_path(store).exists()
    assert _problems(store) == []
    whole = acknowledged == len(steps) and victim == "recorder"
    assert read_attributes(store).status in ({"complete"} if whole else {"complete", "incomplete"})
    _assert_holds(open_trace(store), steps[:count])
    before = _files(store)
    assert not any(name.endswith(".partial") for name in before)
    assert recover(store) == 0
    assert _files(store) == before
    assert zarr.open_group(store, mode="r").metadata.consolidated_metadata is not None
