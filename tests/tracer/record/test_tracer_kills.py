"""Deaths of the trainer, the recorder, or both: every acknowledged step is there."""

from __future__ import annotations

import multiprocessing
import random
import re
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr
import zarr

import kills
from kills import Death, Process, log_of
from steptrace_analyzer.trace.open import open_trace
from steptrace_schema.errors import NotATraceError
from steptrace_schema.format.layout import fill_value
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.where import journal_path
from steptrace_schema.moving.recover import recover
from steptrace_schema.storage.locks import is_being_moved
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import Problem, validate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from journals import Arrays

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["kills", "steptrace_tracer.record.recorder_process"])

_VICTIMS: tuple[tuple[Process, ...], ...] = (("trainer",), ("recorder",), ("trainer", "recorder"))

_MOMENTS: list[tuple[str, Process, Death]] = [
    ("journal made", "trainer", Death(1, r"mkdir .*\.journal$")),
    ("ballast opened", "trainer", Death(1, r"open .*/ballast$")),
    ("declaration half written", "trainer", Death(1, r"open .*/declaration\.", half=True)),
    ("declaration renamed", "trainer", Death(1, r"rename .*/declaration\.json$")),
    ("first record renamed", "trainer", Death(1, r"rename .*/\d+\.safetensors$")),
    ("record opened", "trainer", Death(6, r"open .*/\d+\.partial$")),
    ("record half written", "trainer", Death(8, r"open .*/\d+\.partial$", half=True)),
    ("record renamed", "trainer", Death(13, r"rename .*/\d+\.safetensors$")),
    ("ballast given up", "trainer", Death(1, r"remove .*/ballast$")),
    ("end of the run half written", "trainer", Death(1, r"open .*/closed\.", half=True)),
    ("end of the run renamed", "trainer", Death(1, r"rename .*/closed\.json$")),
    ("store made", "recorder", Death(1, r"mkdir .*\.zarr$")),
    ("root half written", "recorder", Death(2, r"open .*\.zarr/zarr\.json\.", half=True)),
    ("group made", "recorder", Death(3, r"rename .*\.zarr/.+/zarr\.json$")),
    ("folder of an array made", "recorder", Death(4, r"mkdir .*\.zarr/.+/.+$")),
    ("chunk opened", "recorder", Death(5, r"open .*/c[.\d]+$")),
    ("chunk half written", "recorder", Death(9, r"open .*/c[.\d]+$", half=True)),
    ("chunk with earlier rows half replaced", "recorder", Death(3, r"/c[.\d]+partial$", half=True)),
    ("chunk with earlier rows renamed", "recorder", Death(4, r"rename .*/c[.\d]+$")),
    ("first commit", "recorder", Death(2, r"rename .*\.zarr/zarr\.json$")),
    ("later commit", "recorder", Death(4, r"rename .*\.zarr/zarr\.json$")),
    ("moved record deleted", "recorder", Death(6, r"remove .*\.safetensors$")),
    (
        "metadata of an array half written",
        "recorder",
        Death(1, r"open .*/kernel/zarr\.json", half=True),
    ),
    ("array cut to size", "recorder", Death(2, r"rename .*/kernel/zarr\.json$")),
    ("metadata copied into the root", "recorder", Death(7, r"rename .*\.zarr/zarr\.json$")),
    ("declaration deleted", "recorder", Death(1, r"remove .*/declaration\.json$")),
    ("rest of the journal deleted", "recorder", Death(1, r"remove (lock|writer)$")),
    ("folder of the journal deleted", "recorder", Death(1, r"rmdir .*\.journal$")),
]
"""Moments with a name: before an operation, or halfway through the file that it opens."""

_CONTENT, _ENTRY = r"pwritev .*/ring \d{4,}$", r"pwritev .*/ring \d{2,3}$"
"""Writing a record into a slot, and its entry into the table."""

_MOMENTS_OF_A_RING: list[tuple[str, Process, Death]] = [
    ("head of the ring half written", "trainer", Death(1, r"pwritev .*/ring\.partial", half=True)),
    ("ring renamed", "trainer", Death(1, r"rename .*/ring$")),
    ("first record opened", "trainer", Death(1, _CONTENT)),
    ("first record half written", "trainer", Death(1, _CONTENT, half=True)),
    ("first entry opened", "trainer", Death(1, _ENTRY)),
    ("first entry half written", "trainer", Death(1, _ENTRY, half=True)),
    ("number of the first entry opened", "trainer", Death(2, _ENTRY)),
    ("record half written", "trainer", Death(5, _CONTENT, half=True)),
    ("entry half written", "trainer", Death(9, _ENTRY, half=True)),
    ("number of an entry written", "trainer", Death(4, _CONTENT)),
    ("record without a slot renamed", "trainer", Death(1, r"rename .*/\d+\.safetensors$")),
    ("moved record about to be released", "recorder", Death(2, _ENTRY)),
    ("moved record half released", "recorder", Death(3, _ENTRY, half=True)),
]
"""The same for a journal with a ring."""

_NUMBERS = 60
"""Random moments; with those above, the trainer is killed at more than fifty."""


def _run(store: Path, deaths: Mapping[Process, Death], *, ring: bool = False) -> int:
    """Run until all processes have ended; return how many steps were acknowledged."""
    receiving, sending = _FORKS.Pipe(duplex=False)
    process = _FORKS.Process(target=kills.run, args=(store, deaths, sending), kwargs={"ring": ring})
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


def _operations(store: Path, process: Process) -> list[str]:
    """Return the operations that a process came to, and ``end`` if it was not killed."""
    return log_of(store, process).read_text().splitlines()


@pytest.fixture(scope="module")
def lengths(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Process, bool], int]:
    """Return how many operations each process has that is not killed, without and with a ring."""
    found: dict[tuple[Process, bool], int] = {}
    for ring in (False, True):
        store = tmp_path_factory.mktemp("whole") / "run.zarr"
        assert _run(store, {}, ring=ring) == len(kills.known_steps())
        for process in ("trainer", "recorder"):
            *operations, end = _operations(store, process)
            assert end == "end"
            found[process, ring] = len(operations)
    return found


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


@pytest.mark.parametrize(
    ("process", "death", "ring"),
    [
        *(pytest.param(*moment, False, id=name) for name, *moment in _MOMENTS),
        *(pytest.param(*moment, True, id=name) for name, *moment in _MOMENTS_OF_A_RING),
    ],
)
def test_no_acknowledged_step_is_lost_at_a_moment_with_a_name(
    tmp_path: Path, process: Process, death: Death, ring: bool
) -> None:
    store = tmp_path / "run.zarr"
    acknowledged = _run(store, {process: death}, ring=ring)
    operations = _operations(store, process)
    assert operations[-1] != "end"
    assert len([o for o in operations if re.search(death.operation, o)]) >= death.number
    _assert_nothing_is_lost(store, acknowledged, whole=process == "recorder")


@pytest.mark.slow
@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("number", range(_NUMBERS))
def test_no_acknowledged_step_is_lost_at_any_moment(
    tmp_path: Path, number: int, ring: bool, lengths: dict[tuple[Process, bool], int]
) -> None:
    store, chance = tmp_path / "run.zarr", random.Random(number)
    victims = _VICTIMS[number % 3]
    timed = number % 2 == 0
    deaths: dict[Process, Death] = {
        victim: Death(seconds=chance.uniform(0.001, 0.25))
        if timed
        else Death(number=chance.randint(1, lengths[victim, ring]))
        for victim in victims
    }
    acknowledged = _run(store, deaths, ring=ring)
    if not timed:  # a recorder has less to do where the trainer dies
        assert _operations(store, victims[0])[-1] != "end"
    _assert_nothing_is_lost(store, acknowledged, whole=victims == ("recorder",))


def _assert_nothing_is_lost(store: Path, acknowledged: int, *, whole: bool) -> None:
    """Check the trace as it was left, as `recover` finishes it, and as that leaves it again.

    Parameters
    ----------
    store
        Where it is.
    acknowledged
        Steps that have to be there.
    whole
        Whether the trainer lived, and so came to its end.
    """
    steps = kills.known_steps()
    if not JournalReader(journal_path(store)).exists and not store.exists():
        assert acknowledged == 0
        with pytest.raises(NotATraceError):
            open_trace(store)
        with pytest.raises(NotATraceError):
            recover(store)
        assert not journal_path(store).exists()
        return
    tree = open_trace(store)
    # The record in flight may be there too.
    count = tree["weights"].sizes["step"] if "weights" in tree else 0
    assert acknowledged <= count <= acknowledged + 1
    _assert_holds(tree, steps[:count])
    recover(store)
    assert not journal_path(store).exists()
    assert _problems(store) == []
    status = read_attributes(store).status
    assert status == "complete" if whole else status in ("complete", "incomplete")
    _assert_holds(open_trace(store), steps[:count])
    before = _files(store)
    assert not any(name.endswith(".partial") for name in before)
    assert recover(store) == 0
    assert _files(store) == before
    assert zarr.open_group(store, mode="r").metadata.consolidated_metadata is not None
