"""Two runs on one path, and what dead processes leave behind."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zarr

from journals import attributes, random_steps, write_journal
from steptrace_schema.errors import TraceError, TraceExistsError
from steptrace_schema.journal.declaration import Declaration
from steptrace_schema.journal.where import journal_path
from steptrace_schema.journal.writer import JournalWriter
from steptrace_schema.moving.recover import recover
from steptrace_schema.moving.resume import reopen
from steptrace_schema.storage.locks import exclusive, is_being_moved, live_writer
from steptrace_schema.store.opening import read_attributes, refuse_existing

if TYPE_CHECKING:
    from collections.abc import Callable

_WRITER = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
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


@pytest.mark.parametrize("finish", [recover, lambda store: reopen(store, 1)])
def test_a_live_training_whose_recorder_is_dead_keeps_its_journal(
    tmp_path: Path, finish: Callable[[Path], Any]
) -> None:
    store = tmp_path / "run.zarr"
    command = [sys.executable, "-c", _WRITER, str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as training:
        try:
            assert training.stdout is not None
            assert training.stdout.readline() == "written\n"
            expected = rf"still running \(process {training.pid}\); wait"
            with pytest.raises(TraceError, match=expected):
                finish(store)
            assert len(list(journal_path(store).glob("*.safetensors"))) == 3
        finally:
            training.send_signal(signal.SIGKILL)
    finish(store)
    assert read_attributes(store).steps_recorded["scalars"] == 2


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


def test_a_writer_gives_its_lock_back_when_it_cannot_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    store = tmp_path / "run.zarr"
    writer = write_journal(store, random_steps(1))
    monkeypatch.setattr("steptrace_schema.journal.writer.write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        writer.close("complete", None, attributes())
    monkeypatch.undo()
    assert live_writer(writer.directory) is None
    assert recover(store) == 2


def test_who_only_looks_whether_a_journal_is_moved_is_in_nobodys_way(tmp_path: Path) -> None:
    journal = write_journal(tmp_path / "run.zarr", random_steps(1)).directory
    with (journal / "lock").open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not is_being_moved(journal)
        threading.Timer(0.03, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with exclusive(journal):
            assert is_being_moved(journal)


def test_a_trace_that_was_to_go_on_and_has_no_journal_is_closed(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    write_journal(store, random_steps(5)).close("complete", None, attributes())
    recover(store)
    reopen(store, 2).begin()  # and dies
    assert read_attributes(store).status == "recording"
    assert recover(store) == 0
    found = read_attributes(store)
    assert found.status == "incomplete"
    assert found.status_reason is not None
    assert "no journal" in found.status_reason
    assert found.steps_recorded["scalars"] == 2
    group = zarr.open_group(store, mode="r")
    assert group["weights/dense/kernel"].shape == (2, 3, 4)  # type: ignore[union-attr]
    assert group.metadata.consolidated_metadata is not None


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
