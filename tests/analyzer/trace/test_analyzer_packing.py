from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
import zarr
from zarr.storage import ZipStore

import worker_meeting
from steptrace_analyzer.cli import app
from steptrace_analyzer.cli.pack import Encoding
from steptrace_analyzer.differences import diff
from steptrace_analyzer.trace.open import open_trace
from steptrace_analyzer.trace.packing import pack, unpack
from steptrace_schema.errors import (
    DamagedTraceError,
    NotATraceError,
    TraceError,
    TraceExistsError,
)
from steptrace_schema.format.policy import Profile
from steptrace_schema.moving import reencode
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def packed(healthy_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(healthy_path, tmp_path_factory.mktemp("packed") / "run.zarr.zip")


def _files(folder: Path) -> dict[str, bytes]:
    found = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in found}


def test_a_packed_trace_opens_and_equals_its_folder(healthy_path: Path, packed: Path) -> None:
    assert not diff(open_trace(healthy_path), open_trace(packed), names=("a", "b")).differs


def test_plain_zarr_reads_a_packed_trace(healthy_path: Path, packed: Path) -> None:
    with ZipStore(packed, mode="r") as store:
        group = zarr.open_group(store, mode="r")
        kernel = np.asarray(group["weights/sequential/dense/kernel"][...])  # type: ignore[index]
    folder = zarr.open_group(healthy_path, mode="r")
    expected = folder["weights/sequential/dense/kernel"][...]  # type: ignore[index]
    assert np.array_equal(kernel, np.asarray(expected))


def test_members_are_stored_and_come_metadata_first(packed: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        members = archive.infolist()
    assert {member.compress_type for member in members} == {zipfile.ZIP_STORED}
    is_metadata = [member.filename.endswith("zarr.json") for member in members]
    assert is_metadata == sorted(is_metadata, reverse=True)


def test_packing_and_unpacking_keeps_every_byte(
    healthy_path: Path, packed: Path, tmp_path: Path
) -> None:
    folder = unpack(packed, tmp_path / "back.zarr")
    assert _files(folder) == _files(healthy_path)


def test_the_same_trace_packs_to_the_same_bytes(
    healthy_path: Path, packed: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(healthy_path, copy)
    assert pack(copy).read_bytes() == packed.read_bytes()
    assert (tmp_path / "copy.zarr.zip").exists()


def test_progress_counts_all_bytes(healthy_path: Path, tmp_path: Path) -> None:
    total = sum(len(content) for content in _files(healthy_path).values())
    seen: list[tuple[int, int]] = []
    target = pack(healthy_path, tmp_path / "a.zip", progress=lambda *done: seen.append(done))
    assert seen[-1] == (total, total)
    seen.clear()
    unpack(target, tmp_path / "b.zarr", progress=lambda *done: seen.append(done))
    assert seen[-1] == (total, total)


def test_an_unfinished_trace_is_not_packed(tmp_path: Path, make_run: Callable[..., Any]) -> None:
    path = make_run(steps=3).write(tmp_path / "run.zarr")
    make_run(steps=3).write_journal(path)
    with pytest.raises(TraceError, match=r"not finished: it has a journal.*steptrace recover"):
        pack(path)
    assert not (tmp_path / "run.zarr.zip").exists()


def test_a_trace_still_recording_is_not_packed(
    tmp_path: Path, make_run: Callable[..., Any]
) -> None:
    path = make_run(steps=3, status="recording").write(tmp_path / "run.zarr")
    with pytest.raises(TraceError, match=r"its status is 'recording'; run 'steptrace recover"):
        pack(path)


def test_an_existing_output_is_kept_unless_it_may_be_replaced(
    healthy_path: Path, packed: Path, tmp_path: Path
) -> None:
    target = tmp_path / "run.zarr.zip"
    target.write_text("precious")
    with pytest.raises(TraceExistsError, match="exists; replace it with --overwrite, or choose"):
        pack(healthy_path, target)
    assert target.read_text() == "precious"
    pack(healthy_path, target, overwrite=True)
    assert target.read_bytes() == packed.read_bytes()
    with pytest.raises(TraceExistsError, match="exists"):
        unpack(packed, tmp_path)


def test_a_failure_leaves_no_file_behind(healthy_path: Path, packed: Path, tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(healthy_path, tmp_path / "run.zarr.zip", progress=fail)
    with pytest.raises(KeyboardInterrupt):
        unpack(packed, tmp_path / "run.zarr", progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_the_output_must_be_a_name_that_opens(healthy_path: Path, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"does not end in \.zip"):
        pack(healthy_path, tmp_path / "run.tar")
    with pytest.raises(NotATraceError, match="is packed already"):
        pack(tmp_path / "run.zarr.zip")
    with pytest.raises(NotATraceError, match="is not a packed trace"):
        unpack(healthy_path)


def _archive(path: Path, members: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    root = {"zarr_format": 3, "node_type": "group", "attributes": {"steptrace": _ATTRIBUTES}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zarr.json", json.dumps(root))
        for name, content in members:
            archive.writestr(name, content)
    return path


_ATTRIBUTES = {
    "version": "1.0",
    "run_id": "a",
    "created": "2026-01-01T00:00:00+00:00",
    "producer": "tests",
    "policy": {},
}


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:evil", "weights/../../evil"]
)
def test_a_member_outside_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    archive = _archive(folder / "run.zarr.zip", [("fine", b"x"), (name, b"x")])
    with pytest.raises(NotATraceError, match="not a safe relative path"):
        unpack(archive)
    assert [file.name for file in tmp_path.rglob("*")] == ["in", "run.zarr.zip"]


def test_links_and_repeated_members_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(NotATraceError, match="'link' is not a safe relative path"):
        unpack(_archive(tmp_path / "a.zip", [(link, b"/etc")]))
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = _archive(tmp_path / "b.zip", [("x", b"1"), ("x", b"2")])
    with pytest.raises(NotATraceError, match="'x' is not a safe relative path"):
        unpack(twice)


def test_a_damaged_member_is_named(packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        member = archive.getinfo("weights/sequential/dense/kernel/c.0.0.0")
    content = bytearray(packed.read_bytes())
    start = member.header_offset + 30 + len(member.filename)
    content[start + 5] ^= 0xFF
    damaged = tmp_path / "run.zarr.zip"
    damaged.write_bytes(content)
    with pytest.raises(DamagedTraceError, match=r"c\.0\.0\.0' is damaged .*copy the file"):
        unpack(damaged)
    assert [file.name for file in tmp_path.iterdir()] == ["run.zarr.zip"]


@pytest.fixture(scope="module")
def compact(healthy_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    seen: list[tuple[int, int]] = []
    output = tmp_path_factory.mktemp("compact") / "run.zarr.zip"
    path = pack(
        healthy_path,
        output,
        profile="compact",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1] > 0
    assert list(output.parent.iterdir()) == [output]
    return path


def test_a_compact_trace_has_the_same_bits(healthy_path: Path, compact: Path) -> None:
    left, right = open_trace(healthy_path), open_trace(compact)
    assert [node.path for node in left.subtree] == [node.path for node in right.subtree]
    for before, after in zip(left.subtree, right.subtree, strict=True):
        assert before.dataset.variables.keys() == after.dataset.variables.keys()
        for name, variable in before.dataset.variables.items():
            assert variable.dims == after.dataset.variables[name].dims
            assert variable.attrs == after.dataset.variables[name].attrs
            ours, theirs = variable.to_numpy(), after.dataset[name].to_numpy()
            if ours.dtype == object:  # names, whose bytes would be addresses
                ours, theirs = ours.astype(str), theirs.astype(str)
            assert ours.tobytes() == theirs.tobytes()


def test_a_compact_trace_is_valid_and_says_what_it_is(compact: Path) -> None:
    assert validate(compact) == []
    assert read_attributes(compact).policy.profile == "compact"


def test_a_compact_trace_is_smaller(compact: Path, packed: Path, tmp_path: Path) -> None:
    def size(path: Path, key: str) -> int:
        with zipfile.ZipFile(path) as archive:
            return sum(m.file_size for m in archive.infolist() if m.filename.startswith(key))

    kernel = "weights/sequential/dense/kernel/c."
    assert size(compact, kernel) < size(packed, kernel)


def test_zarr_alone_reads_a_compact_trace(healthy_path: Path, compact: Path) -> None:
    script = f"""
import warnings, zarr
warnings.simplefilter("ignore")
store = zarr.storage.ZipStore({str(compact)!r}, mode="r")
kernel = zarr.open_group(store, mode="r")["weights/sequential/dense/kernel"][...]
print(kernel.tobytes().hex())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    expected = open_trace(healthy_path)["weights/sequential/dense/kernel"].to_numpy()
    assert bytes.fromhex(done.stdout.decode()) == expected.tobytes()


def test_the_command_packs_compactly_in_more_than_one_process(
    healthy_path: Path, compact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = tmp_path / "workers"
    meeting.mkdir()
    monkeypatch.setenv(worker_meeting.VARIABLE, str(meeting))
    monkeypatch.setattr(reencode, "ProcessPoolExecutor", worker_meeting.MeetingPool)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    target = tmp_path / "run.zarr.zip"
    assert app.run(["pack", str(healthy_path), "--profile", "compact", "-o", str(target)]) == 0
    workers = {int(file.name) for file in meeting.iterdir()}
    assert len(workers) == 2
    assert os.getpid() not in workers
    assert target.read_bytes() == compact.read_bytes()


def test_a_damaged_trace_is_not_packed_anew(healthy_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    shutil.copytree(healthy_path, path)
    shard = path / "weights/sequential/dense/kernel/c.0.0.0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DamagedTraceError, match=r"'weights/sequential/dense/kernel'.*validate"):
        pack(path, profile="compact")
    assert not path.with_name("run.zarr.zip").exists()


def test_the_command_offers_the_profiles_of_the_format() -> None:
    assert {choice.value for choice in Encoding} == set(get_args(Profile))
