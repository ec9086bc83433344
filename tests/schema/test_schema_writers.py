"""Two runs on one path, and what dead processes leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from journals import attributes, random_steps, write_journal
from steptrace_schema.compact import recover
from steptrace_schema.errors import TraceExistsError
from steptrace_schema.journal import Declaration, JournalWriter
from steptrace_schema.location import journal_path
from steptrace_schema.locks import exclusive, live_writer
from steptrace_schema.store import read_attributes, refuse_existing

_WRITER = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from journals import random_steps, write_journal
writer = write_journal(Path(sys.argv[1]), random_steps(2))
print("written", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_path_that_a_live_training_writes_is_refused_until_it_dies(
    tmp_path: Path, overwrite: bool
) -> None:
    store = tmp_path / "run.zarr"
    command = [sys.executable, "-c", _WRITER, str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "written\n"
        with pytest.raises(TraceExistsError, match=rf"still running \(process {first.pid}\)"):
            refuse_existing(store, overwrite=overwrite)
        first.send_signal(signal.SIGKILL)
    if overwrite:
        refuse_existing(store, overwrite=True)
        assert not journal_path(store).exists()
    else:
        with pytest.raises(TraceExistsError, match="pass overwrite=True"):
            refuse_existing(store, overwrite=False)
        assert recover(store) == 3


def test_a_trace_that_its_recorder_still_finishes_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    write_journal(store, random_steps(2)).close("complete", None, attributes())
    with (
        exclusive(journal_path(store)),
        pytest.raises(TraceExistsError, match="still being finished"),
    ):
        refuse_existing(store, overwrite=True)


def test_the_second_of_two_writers_that_begin_together_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    first = write_journal(store, random_steps(1))
    with pytest.raises(TraceExistsError, match=r"run\.zarr\.journal has just been made by another"):
        JournalWriter.create(journal_path(store), Declaration(attributes(), ()))
    assert live_writer(first.directory) == os.getpid()


def test_a_writer_gives_its_lock_back_when_it_closes(tmp_path: Path) -> None:
    writer = write_journal(tmp_path / "run.zarr", random_steps(1))
    writer.close("complete", None, attributes())
    assert live_writer(writer.directory) is None


@pytest.mark.parametrize("left", ["nothing", "lock", "writer", "declaration.json.partial"])
def test_a_journal_that_never_began_is_no_obstacle(tmp_path: Path, left: str) -> None:
    store = tmp_path / "run.zarr"
    journal_path(store).mkdir()
    if left != "nothing":
        (journal_path(store) / left).write_text("")
    refuse_existing(store, overwrite=False)
    assert not journal_path(store).exists()


def test_a_folder_with_the_name_of_a_journal_is_not_deleted(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    journal_path(store).mkdir()
    (journal_path(store) / "notes.txt").write_text("mine")
    with pytest.raises(TraceExistsError, match="is not a journal"):
        refuse_existing(store, overwrite=True)
    assert (journal_path(store) / "notes.txt").exists()


def test_what_is_left_of_a_journal_whose_records_are_all_in_the_store_is_removed(
    tmp_path: Path,
) -> None:
    store = tmp_path / "run.zarr"
    write_journal(store, random_steps(2))
    recover(store)
    journal_path(store).mkdir()
    (journal_path(store) / "00000001.safetensors").write_bytes(b"")
    assert recover(store) == 0
    assert not journal_path(store).exists()
    assert read_attributes(store).steps_recorded["scalars"] == 2
