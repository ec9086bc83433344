"""Pipes, devices, links, folders and files of holes in the places of a trace's files."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from forked_commands import command
from hostile import files_below, finished_trace, killed_journal
from steptrace_analyzer.trace.packing import pack
from steptrace_schema.format.root_checksum import sealed
from steptrace_schema.storage.names import open_to_read
from steptrace_schema.storage.posix import is_mostly_holes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files")

TERABYTES = 2**43


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path)


def folder(path: Path) -> None:
    path.mkdir()


def holes(path: Path) -> None:
    path.write_bytes(b"{}")
    os.truncate(path, TERABYTES)


PLACES: dict[str, Callable[[Path], None]] = {
    make.__name__: make for make in (pipe, device, loop, folder, holes)
}
FILES = (
    "zarr.json",
    "weights/dense/kernel/zarr.json",
    "weights/dense/kernel/c.0.0.0",
    "scalars/step/c.0",
)
JOURNAL = ("declaration.json", "closed.json", "lock", "writer", "ring", "00000003.safetensors")


def _not_copied(store: Path) -> None:
    """Leave the copies of all metadata out of the root, so that the files are read."""
    root = json.loads((store / "zarr.json").read_bytes())
    root.pop("consolidated_metadata", None)
    (store / "zarr.json").write_bytes(sealed(root))


@pytest.mark.sampled(7)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_of_a_trace_is_named_and_not_waited_for(
    tmp_path: Path, place: str, file: str
) -> None:
    store, good = finished_trace(tmp_path / "run.zarr"), finished_trace(tmp_path / "good.zarr")
    _not_copied(store)
    (store / file).unlink()
    PLACES[place](store / file)
    out = tmp_path / "out"
    out.mkdir()
    for arguments in (
        ("validate", store),
        ("diff", store, good),
        ("pack", store, "-o", out / "run.zarr.zip"),
    ):
        ended = command(*arguments)
        assert not ended.problem, (arguments, ended)
        assert ended.seconds < 10, (arguments, ended)
    for packed in out.glob("*.zip"):
        assert packed.stat().st_size < 2**20


@pytest.mark.sampled(11)
@pytest.mark.parametrize("file", JOURNAL)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_of_a_journal_is_named_and_not_waited_for(
    tmp_path: Path, place: str, file: str
) -> None:
    store, good = tmp_path / "run.zarr", finished_trace(tmp_path / "good.zarr")
    journal = killed_journal(store)
    (journal / file).unlink(missing_ok=True)
    PLACES[place](journal / file)
    for arguments in (
        ("diff", store, good),
        ("recover", store),
    ):
        ended = command(*arguments)
        assert not ended.problem, (arguments, ended)
        assert ended.seconds < 10, (arguments, ended)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["run.zarr", "run.zarr.zip", "run.zarr.journal", "run.fp.json"])
def test_what_is_no_trace_at_all_is_named_and_not_waited_for(
    tmp_path: Path, place: str, name: str
) -> None:
    path, good = tmp_path / name, finished_trace(tmp_path / "good.zarr")
    PLACES[place](path)
    trace = tmp_path / "run.zarr" if name.endswith(".journal") else path
    for arguments in (
        ("diff", good, trace),
        ("diff", good, "--golden", path),
        ("unpack", trace, "-o", tmp_path / "out"),
        ("recover", trace),
    ):
        ended = command(*arguments)
        assert ended.code in (1, 2), (arguments, ended)
        assert not ended.problem, (arguments, ended)
        assert ended.seconds < 10, (arguments, ended)


def test_a_link_to_a_folder_of_the_trace_itself_is_not_followed_for_ever(tmp_path: Path) -> None:
    store = finished_trace(tmp_path / "run.zarr")
    _not_copied(store)
    before = files_below(store)
    (store / "weights" / "again").symlink_to(store)
    for arguments in (("info", store), ("validate", store), ("pack", store)):
        ended = command(*arguments)
        assert not ended.problem, (arguments, ended)
    assert files_below(store) == before


def test_only_files_that_are_nearly_all_holes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * 2**20))
    os.close(open_to_read(path))
    os.truncate(path, 100 * 2**20)  # a 33rd is there
    os.close(open_to_read(path))
    os.truncate(path, TERABYTES)
    with pytest.raises(ValueError, match=f"of its {TERABYTES} bytes nearly all are holes"):
        open_to_read(path)
    with path.open("r+b") as file:  # and where the content is at the end
        file.seek(TERABYTES)
        file.write(b"end")
        assert is_mostly_holes(file.fileno())
    os.close(open_to_read(path, holes=True))
    packed = pack(finished_trace(tmp_path / "run.zarr"))
    shutil.copy(packed, tmp_path / "other.zarr.zip")
    os.close(open_to_read(tmp_path / "other.zarr.zip"))


@pytest.mark.sampled(7)
@pytest.mark.parametrize("file", FILES[:3])
@pytest.mark.parametrize("place", PLACES)
def test_a_journal_is_not_moved_into_what_is_no_trace(
    tmp_path: Path, place: str, file: str
) -> None:
    store = tmp_path / "run.zarr"
    journal = killed_journal(store)
    kept = files_below(journal)
    finished_trace(tmp_path / "other.zarr")
    (tmp_path / "other.zarr").rename(store)
    _not_copied(store)
    (store / file).unlink()
    PLACES[place](store / file)
    ended = command("recover", store)
    assert not ended.problem, ended
    assert ended.seconds < 10
    if ended.code == 2:
        assert {k: v for k, v in files_below(journal).items() if k != "lock"} == kept
