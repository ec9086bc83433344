"""A journal from a stranger writes nothing outside of its trace, and fails with one sentence."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hostile import MARK, edit_declaration, files_below, killed_journal
from journals import attributes, random_steps, write_journal
from steptrace_schema.errors import DamagedTraceError, TraceError
from steptrace_schema.format.layout import ArraySpec
from steptrace_schema.format.retention import around
from steptrace_schema.journal.place import FilePlace
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.record import Record
from steptrace_schema.journal.record_file import write_record_file
from steptrace_schema.moving.journal_mover import JournalMover
from steptrace_schema.moving.recover import recover
from steptrace_schema.moving.resume import reopen
from steptrace_schema.storage.files import DurableFiles, LocalFiles
from steptrace_schema.storage.locks import writer_of
from steptrace_schema.store.opening import read_attributes

if TYPE_CHECKING:
    from pathlib import Path

KERNEL = "weights/dense/kernel"


def declare(journal: Path, **fields: Any) -> None:
    """Change the declaration of the kernel, and the name that the records have it under."""

    def change(declaration: dict[str, Any]) -> None:
        (spec,) = [s for s in declaration["arrays"] if f"{s['kind']}/{s['path']}" == KERNEL]
        spec.update(fields)

    edit_declaration(journal, change)
    key = f"{fields.get('kind', 'weights')}/{fields.get('path', 'dense/kernel')}"
    for step, arrays in random_steps(9):
        named = {key if k == KERNEL else k: v for k, v in arrays.items()}
        write_record_file(journal / f"{step:08d}.safetensors", named, {"step": str(step)})


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "../../../escaped/k"},
        {"path": "dense/../../../escaped/k"},
        {"path": "/escaped"},
        {"path": ""},
        {"path": "."},
        {"path": "a//b"},
        {"path": "a\\..\\..\\b"},
        {"path": "a\0b"},
        {"path": "zarr.json"},
        {"path": "a" * 2000},
        {"path": 3},
        {"kind": "", "path": "{outside}/escaped"},
        {"kind": "..", "path": "escaped"},
        {"kind": "statistics", "path": "weights/values"},
        {"kind": ["weights"]},
        {"dtype": "object"},
        {"dtype": "O"},
        {"dtype": "S8"},
        {"dtype": "datetime64[s]"},
        {"dtype": "float32,float32"},
        {"dtype": 7},
        {"shape": [3, -4]},
        {"shape": [3, 4.0]},
        {"shape": [3, True]},
        {"shape": [2**62, 2**62]},
        {"shape": [0, 2**70]},
        {"shape": [1] * 65, "dims": ["d"] * 65},
        {"shape": "34"},
        {"dims": ["a"]},
        {"dims": ["a", ""]},
        {"dims": ["a", 5]},
        {"static": "yes"},
        {"statistics_only": 1},
        {"attributes": [1]},
    ],
    ids=lambda fields: "-".join(f"{k}={v!r:.30}" for k, v in fields.items()),
)
@pytest.mark.parametrize("how", ["recover", "resume"])
def test_a_declaration_that_no_trace_has_is_refused_and_nothing_is_written(
    tmp_path: Path, fields: dict[str, Any], how: str
) -> None:
    folder = tmp_path / "one" / "two" / "three"
    folder.mkdir(parents=True)
    store = folder / "run.zarr"
    journal = killed_journal(store)
    if isinstance(path := fields.get("path"), str):
        fields = {**fields, "path": path.format(outside=tmp_path)}
    declare(journal, **fields)
    before = files_below(tmp_path)
    with pytest.raises(DamagedTraceError, match=r"declaration\.json is not a readable journal"):
        recover(store) if how == "recover" else reopen(store, 20)
    after = files_below(tmp_path)
    assert {k: v for k, v in after.items() if not k.endswith("journal/lock")} == before


def test_fields_that_a_later_version_declares_are_left_out(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    declare(killed_journal(store), of_a_later_version=5)
    assert recover(store) == 10


@pytest.mark.parametrize("twice", [KERNEL, "weights/dense"])
def test_an_array_that_is_declared_twice_or_inside_of_another_one_is_refused(
    tmp_path: Path, twice: str
) -> None:
    store = tmp_path / "run.zarr"
    journal = killed_journal(store)
    spec = ArraySpec("weights", twice.partition("/")[2], (), (), "float32").to_dict()
    edit_declaration(journal, lambda fields: fields["arrays"].append(spec))
    with pytest.raises(DamagedTraceError, match="declared"):
        recover(store)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a//x", "a\\x", "c:x", "a\0x", "."])
@pytest.mark.parametrize("files", [LocalFiles, DurableFiles])
def test_storage_refuses_once_more_a_name_that_leaves_the_trace(
    tmp_path: Path, name: str, files: type[LocalFiles | DurableFiles]
) -> None:
    store = tmp_path / "run.zarr"
    for act in (files(store).put, files(store).replace):
        with pytest.raises(DamagedTraceError, match="leaves the trace"):
            act(name, [b"x"])
    with pytest.raises(DamagedTraceError, match="leaves the trace"):
        files(store).read(name)
    assert files_below(tmp_path) == {}


@pytest.mark.skipif(os.name != "posix", reason="links need privileges elsewhere")
@pytest.mark.parametrize("files", [LocalFiles, DurableFiles])
def test_a_link_that_leaves_the_trace_is_not_written_through(
    tmp_path: Path, files: type[LocalFiles | DurableFiles]
) -> None:
    store, outside = tmp_path / "run.zarr", tmp_path / "outside"
    store.mkdir()
    outside.mkdir()
    (outside / "file").write_text(MARK)
    (store / "weights").symlink_to(outside, target_is_directory=True)
    with pytest.raises(DamagedTraceError, match="is a link that leaves the trace"):
        files(store).put("weights/dense/kernel/c.0", [b"x"])
    (store / "c.0").symlink_to(outside / "file")
    (store / "c.0.partial").symlink_to(outside / "file")
    with pytest.raises(OSError, match=r"c\.0"):
        files(store).replace("c.0", [b"x"])
    with pytest.raises(OSError, match=r"c\.0"):
        files(store).put("c.0", [b"x"])
    assert files_below(outside) == {"file": MARK.encode()}


@pytest.mark.skipif(os.name != "posix", reason="links need privileges elsewhere")
@pytest.mark.parametrize("name", ["lock", "writer", "noted.json.partial"])
def test_a_journal_whose_files_are_links_changes_nothing_that_they_lead_to(
    tmp_path: Path, name: str
) -> None:
    store, target = tmp_path / "run.zarr", tmp_path / "precious"
    target.write_text(MARK)
    journal = killed_journal(store, policy={"retain": around("non_finite").model_dump()})
    (journal / name).unlink(missing_ok=True)
    (journal / name).symlink_to(target)
    if name == "writer":
        recover(store)
    else:
        with pytest.raises(OSError, match=name.partition(".")[0]):
            recover(store)
    assert target.read_text() == MARK


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files")
@pytest.mark.parametrize("name", ["declaration.json", "closed.json", "00000003.safetensors"])
def test_a_pipe_in_a_journal_is_not_waited_for(tmp_path: Path, name: str) -> None:
    store = tmp_path / "run.zarr"
    journal = killed_journal(store)
    (journal / name).unlink(missing_ok=True)
    os.mkfifo(journal / name)
    if name == "declaration.json":
        assert not JournalReader(journal).exists
        return
    with pytest.raises(DamagedTraceError, match="no regular file"):
        recover(store)


@pytest.mark.parametrize("file", ["declaration.json", "closed.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 100_000,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"attributes": {}, "arrays": 5, "status": 5, "reason": 5}',
        b'{"attributes": null, "arrays": [null], "status": "complete", "reason": null}',
    ],
    ids=range(8),
)
def test_a_file_of_a_journal_that_is_not_understood_is_named(
    tmp_path: Path, file: str, content: bytes
) -> None:
    store = tmp_path / "run.zarr"
    journal = killed_journal(store)
    (journal / file).write_bytes(content)
    with pytest.raises(DamagedTraceError, match=file.replace(".", r"\.")):
        recover(store)


@pytest.mark.parametrize("status", ["recording", "well", "", None, 5, ["complete"]])
def test_a_journal_that_is_closed_with_a_status_that_there_is_not_is_refused(
    tmp_path: Path, status: object
) -> None:
    store = tmp_path / "run.zarr"
    journal = killed_journal(store)
    fields = {"status": status, "reason": None, "attributes": attributes().model_dump(mode="json")}
    (journal / "closed.json").write_text(json.dumps(fields))
    with pytest.raises(DamagedTraceError, match=r"closed\.json does not say how the run ended"):
        recover(store)


@pytest.mark.parametrize(
    "content", [b"", b"[", b"[1]", b'[1, ["a"], []]', b"\xff", b"[" * 100_000, b"[-1, [], {}]"]
)
def test_damaged_notes_of_triggers_do_not_lose_the_trace_and_are_said(
    tmp_path: Path, content: bytes
) -> None:
    store = tmp_path / "run.zarr"
    journal = killed_journal(store, policy={"retain": around("non_finite").model_dump()})
    (journal / "noted.json").write_bytes(content)
    assert recover(store) == 10
    found = read_attributes(store)
    assert any("what the recorder had noted" in event.message for event in found.events)
    assert found.statistics_recorded["gradients"] == 9


def test_notes_of_triggers_that_are_whole_are_said_nothing_of(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    policy = {"retain": around("non_finite").model_dump()}
    writer = write_journal(store, random_steps(9), shard_steps=8, policy=policy)
    JournalMover(writer.directory, store).move_ready()
    writer._release()
    assert recover(store) == 10
    assert not any("noted" in event.message for event in read_attributes(store).events)


@pytest.mark.parametrize(
    "text",
    [b"0", b"-1", b"99999999999999999999", b"4294967297", b"9" * 5000, b"\xff", "٣".encode()],
)
def test_a_number_that_no_process_has_names_no_writer(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "writer").write_bytes(text)
    assert writer_of(tmp_path) is None


def _header(path: Path, header: object, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b"{}",
        b"[]",
        {"__metadata__": {"step": "x"}},
        {"__metadata__": {"step": "1" * 5000}},
        {"__metadata__": {"step": "0"}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}},
        {"__metadata__": {"step": "0"}, "a": {"dtype": "X", "shape": [2], "data_offsets": [0, 8]}},
        {
            "__metadata__": {"step": "0"},
            "a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]},
        },
        {
            "__metadata__": {"step": "0"},
            "a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]},
        },
        {
            "__metadata__": {"step": "0"},
            "a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
        },
        {
            "__metadata__": {"step": "0"},
            **{name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in ("a", "b")},
        },
    ],
    ids=range(11),
)
def test_a_record_whose_header_is_not_true_is_named(tmp_path: Path, header: object) -> None:
    path = tmp_path / "00000000.safetensors"
    _header(path, header, bytes(8))
    with pytest.raises(DamagedTraceError, match="not a readable journal record"):
        Record(FilePlace(path))


@pytest.mark.parametrize("length", [0, 7, 2**63, 2**64 - 1])
def test_a_record_whose_header_is_longer_than_the_file_is_named(
    tmp_path: Path, length: int
) -> None:
    path = tmp_path / "00000000.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}" * 3)
    with pytest.raises(DamagedTraceError, match="not a readable journal record"):
        Record(FilePlace(path))


@pytest.mark.parametrize(
    "name", ["1.safetensors", "٣.safetensors", "000000001.safetensors", f"{'1' * 200}.safetensors"]
)
def test_files_that_are_not_named_as_records_are_left_alone(tmp_path: Path, name: str) -> None:
    store = tmp_path / "run.zarr"
    journal = killed_journal(store)
    (journal / name).write_bytes(b"no record")
    assert recover(store) == 10


@pytest.mark.parametrize(
    "values",
    [np.zeros((3, 5), np.float32), np.zeros((3, 4, 1), np.float32), np.zeros((), np.float32)],
    ids=["larger", "more dims", "fewer dims"],
)
def test_a_row_that_is_not_declared_as_it_is_is_named(tmp_path: Path, values: Any) -> None:
    store = tmp_path / "run.zarr"
    journal = killed_journal(store)
    arrays = {KERNEL: values, "scalars/loss": np.float32(1)}
    write_record_file(journal / "00000003.safetensors", arrays, {"step": "3"})
    with pytest.raises(TraceError, match=rf"00000003.*{KERNEL}.*declared"):
        recover(store)
