"""Few bytes that claim to be many are refused, quickly and within little memory."""

from __future__ import annotations

import contextlib
import json
import time
import tracemalloc
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hostile import (
    edit_declaration,
    edit_metadata,
    finished_trace,
    killed_journal,
    shard_of,
    with_checksum,
)
from steptrace_analyzer.cli.app import run
from steptrace_analyzer.trace.open import open_trace
from steptrace_analyzer.trace.packing import pack, unpack
from steptrace_schema.encoding.array_metadata import ArrayMetadata
from steptrace_schema.encoding.expansion import ONCE, TOTAL, Expansion
from steptrace_schema.encoding.read_region import overlaps
from steptrace_schema.errors import DamagedTraceError, NotATraceError, TraceError
from steptrace_schema.format.json_text import MOST_DEPTH, parse_json
from steptrace_schema.moving.recover import recover
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import MOST_PROBLEMS, validate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KERNEL = "weights/dense/kernel"
SECONDS = 30
BYTES = 2**31


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Fail what takes longer, or more memory, than an input of under 10 MB may."""
    tracemalloc.start()
    begin = time.monotonic()
    try:
        yield
        assert time.monotonic() - begin < SECONDS
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return finished_trace(tmp_path / "run.zarr")


def claim_rows(store: Path, rows: int) -> None:
    """Let a trace say that it has so many rows of everything."""

    def root(fields: dict[str, Any]) -> None:
        for name in ("steps_recorded", "statistics_recorded"):
            counts = fields["attributes"]["steptrace"][name]
            counts.update(dict.fromkeys(counts, rows))

    for path in sorted(store.rglob("zarr.json")):
        key = path.parent.relative_to(store).as_posix()
        fields = json.loads(path.read_bytes())
        if fields["node_type"] == "array":
            edit_metadata(store, key, lambda m: m["shape"].__setitem__(0, rows))
    edit_metadata(store, "", root)


@pytest.mark.parametrize("rows", [800_000, 10**9, 10**15])
def test_rows_that_are_claimed_keep_nobody_busy(store: Path, rows: int) -> None:
    claim_rows(store, rows)
    problems = validate(store)
    assert len(problems) == MOST_PROBLEMS
    assert {p.rule for p in problems} <= {"R11", "R17"}
    with pytest.raises(DamagedTraceError):
        open_trace(store)
    assert run(["info", str(store)]) == 2


@pytest.mark.parametrize("depth", [MOST_DEPTH + 1, 900, 100_000])
@pytest.mark.parametrize("name", ["zarr.json", f"{KERNEL}/zarr.json"])
def test_deep_json_is_refused_by_everything_that_reads_it(
    store: Path, name: str, depth: int
) -> None:
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    content = (store / name).read_bytes().rstrip()
    (store / name).write_bytes(content[:-1] + b', "deep": ' + deep + b"}")
    assert any(p.rule in ("R1", "R2") for p in validate(store))
    if name == "zarr.json":
        with pytest.raises(NotATraceError, match="nested deeper"):
            read_attributes(store)
        with pytest.raises(NotATraceError, match="nested deeper"):
            open_trace(store)


def test_json_of_the_depth_that_is_allowed_is_read() -> None:
    text = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    assert json.dumps(parse_json(text)).replace(" ", "") == text
    assert parse_json('["' + "[" * 500 + '"]') == ["[" * 500]
    with pytest.raises(ValueError, match="nested deeper"):
        parse_json(f"[{text}]")


@pytest.mark.parametrize("text", [b'"\\ud800"', b'{"\\uDFFF x": 1}', b'["\xed\xa0\x80"]'])
def test_json_with_half_a_character_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="half a character"):
        parse_json(text)
    assert parse_json(b'"\\ud83d\\ude00 \xed\x95\x9c"') == "\U0001f600 \ud55c"


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["zarr.json", "weights/zarr.json", f"{KERNEL}/c.0.0.0"])
def test_a_zip_bomb_is_refused_by_everything_that_opens_it(
    store: Path, tmp_path: Path, name: str
) -> None:
    members = {
        p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()
    }
    path = zipped(tmp_path / "bomb.zarr.zip", {**members, name: b" " * 60_000_000})
    assert path.stat().st_size < 100_000
    for act in (open_trace, read_attributes, unpack):
        with pytest.raises(NotATraceError, match="would become"):
            act(path)
    assert [p.rule for p in validate(path)] == ["R1"]
    assert not (tmp_path / "bomb.zarr").exists()


def test_members_that_are_many_or_overlap_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "many.zarr.zip", {f"c.{n}": bytes(2**24) for n in range(20)})
    with pytest.raises(NotATraceError, match="would become"):
        read_attributes(path)
    content = bytes(2**20)
    path = zipped(tmp_path / "one.zarr.zip", {"zarr.json": content}, zipfile.ZIP_STORED)
    data = path.read_bytes()
    begin, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry, tail = data[begin:end], bytearray(data[end:])
    tail[8:12] = (50).to_bytes(2, "little") * 2
    tail[12:16] = (50 * len(entry)).to_bytes(4, "little")
    path.write_bytes(data[:begin] + entry * 50 + bytes(tail))
    with pytest.raises(NotATraceError, match="overlap"):
        read_attributes(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_are_stored_or_deflated(tmp_path: Path, method: int) -> None:
    path = zipped(tmp_path / "run.zarr.zip", {"zarr.json": b"{}"}, method)
    with pytest.raises(NotATraceError, match="neither stored nor deflated"):
        read_attributes(path)


@pytest.mark.parametrize("bit", [0, 5, 6])
def test_members_that_are_encrypted_or_patches_are_refused(tmp_path: Path, bit: int) -> None:
    path = zipped(tmp_path / "run.zarr.zip", {"zarr.json": b"{}"}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[6] |= 1 << bit
    content[content.index(b"PK\x01\x02") + 8] |= 1 << bit
    path.write_bytes(bytes(content))
    for act in (read_attributes, unpack):
        with pytest.raises(NotATraceError, match="encrypted or a patch"):
            act(path)


def test_a_deflated_trace_that_is_no_bomb_is_read(store: Path, tmp_path: Path) -> None:
    members = {
        p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()
    }
    path = zipped(tmp_path / "run.zarr.zip", members)
    assert open_trace(path)[KERNEL].shape == (10, 3, 4)


def test_a_shard_whose_index_names_one_chunk_many_times_is_refused(store: Path) -> None:
    metadata = ArrayMetadata.parse(KERNEL, json.loads((store / KERNEL / "zarr.json").read_bytes()))
    count, rows = 4096, 2**21
    chunk = np.zeros((rows, 3, 4), np.float32)
    encoded = [bytes(piece) for piece in metadata.encoding.encode(chunk)]  # type: ignore[union-attr]
    content = b"".join(encoded)

    def change(fields: dict[str, Any]) -> None:
        fields["shape"] = [rows * count, 3, 4]
        fields["chunk_grid"]["configuration"]["chunk_shape"] = [rows * count, 3, 4]
        fields["codecs"][0]["configuration"]["chunk_shape"] = [rows, 3, 4]

    edit_metadata(store, KERNEL, change)
    claim_rows_of = {"weights": rows * count}
    edit_metadata(
        store, "", lambda m: m["attributes"]["steptrace"]["steps_recorded"].update(claim_rows_of)
    )
    index = np.array([[0, len(content)]] * count, "<u8").reshape(count, 1, 1, 2)
    (store / KERNEL / "c.0.0.0").write_bytes(content + with_checksum(index.tobytes()))
    found = {p.rule for p in validate(store)}
    assert "R18" in found
    with pytest.raises(TraceError):
        open_trace(store)[KERNEL].to_numpy()


def test_chunks_that_a_shard_does_not_have_are_not_filled_without_end(store: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["shape"] = [10, 2**14, 2**14]
        fields["chunk_grid"]["configuration"]["chunk_shape"] = [16, 2**14, 2**14]
        fields["codecs"][0]["configuration"]["chunk_shape"] = [1, 2**14, 2**14]

    edit_metadata(store, KERNEL, change)
    absent = np.full((16, 1, 1, 2), 2**64 - 1, "<u8")
    (store / KERNEL / "c.0.0.0").write_bytes(with_checksum(absent.tobytes()))
    assert "R18" in {p.rule for p in validate(store)}
    with pytest.raises(DamagedTraceError, match="at once"):
        open_trace(store)[KERNEL].isel(step=0).to_numpy()


@pytest.mark.parametrize(
    ("codec", "content"),
    [
        ("gzip", zlib.compress(bytes(2**26), wbits=31)),
        ("zstd", None),
        ("zstd", bytes.fromhex("28b52ffd") + b"\xe0" + b"\xff" * 8 + bytes(20)),
        ("blosc", b"\2\1\1\4" + (2**31 - 1).to_bytes(4, "little") + bytes(60)),
    ],
    ids=["gzip", "zstd", "zstd's size", "blosc's size"],
)
def test_codecs_of_other_programs_give_no_more_than_a_chunk(
    codec: str, content: bytes | None
) -> None:
    if content is None:
        from numcodecs import get_codec

        content = bytes(get_codec({"id": "zstd"}).encode(bytes(2**26)))
    fields = {
        "shape": [4],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4]}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": "NaN",
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": codec}],
        "zarr_format": 3,
        "node_type": "array",
    }
    metadata = ArrayMetadata.parse("logged/a", fields)
    with pytest.raises(ValueError, match=codec):
        metadata.encoding.decode(content, metadata.dtype)


@pytest.mark.parametrize(
    "change",
    [
        {"data_type": "string"},
        {"data_type": "variable_length_bytes"},
        {"data_type": {"name": "numpy.datetime64"}},
        {"data_type": "object"},
        {"shape": [10, -3, 4]},
        {"shape": [10, 3, 2**62]},
        {"shape": [10.0, 3, 4]},
        {"fill_value": "0xzz"},
        {"fill_value": None},
        {"codecs": []},
        {"codecs": [{"name": "numcodecs.pickle"}]},
        {"codecs": [{"name": "bytes"}, {"name": "numcodecs.pickle"}]},
        {"codecs": [{"name": "vlen-utf8"}]},
        {"chunk_grid": {"name": "rectangular"}},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [8, 3, 0]}}},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [8, 3]}}},
        {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "/../"}}},
        {"dimension_names": ["step"]},
        {"dimension_names": ["step", 5, "out"]},
        {"storage_transformers": [{"name": "x"}]},
        {"node_type": "arrays"},
        {"zarr_format": 2},
        {"attributes": 5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_metadata_that_no_array_of_a_trace_has_are_refused(
    store: Path, change: dict[str, Any]
) -> None:
    edit_metadata(store, KERNEL, lambda fields: fields.update(change))
    assert validate(store) != []
    with pytest.raises(DamagedTraceError, match="dense/kernel"):
        open_trace(store)


@pytest.mark.parametrize("shape", [[2**30], [2**20, 2**20]])
def test_a_row_that_is_declared_far_larger_than_the_records_is_refused(
    tmp_path: Path, shape: list[int]
) -> None:
    path = tmp_path / "run.zarr"
    journal = killed_journal(path)

    def change(fields: dict[str, Any]) -> None:
        (spec,) = [s for s in fields["arrays"] if s["path"] == "loss"]
        spec.update(shape=shape, dims=[f"d{n}" for n in range(len(shape))])

    edit_declaration(journal, change)
    with pytest.raises(DamagedTraceError):
        recover(path)
    with pytest.raises(TraceError):
        open_trace(path)["scalars/loss"].to_numpy()


@pytest.mark.parametrize("value", ["x", 1.5, None, [], 2**40, True])
@pytest.mark.parametrize("setting", ["typesize", "clevel", "blocksize"])
def test_settings_of_a_codec_that_are_none_are_seen_at_once(
    store: Path, setting: str, value: object
) -> None:
    def change(fields: dict[str, Any]) -> None:
        codecs = fields["codecs"][0]["configuration"]["codecs"]
        (blosc,) = [codec for codec in codecs if codec["name"] == "blosc"]
        blosc["configuration"][setting] = value

    edit_metadata(store, KERNEL, change)
    with contextlib.suppress(TraceError):  # a reader goes by the chunk's own header
        assert open_trace(store)[KERNEL].to_numpy().shape == (10, 3, 4)


def test_what_bytes_become_is_bounded_at_once_and_in_all() -> None:
    expansion = Expansion()
    with pytest.raises(ValueError, match="at once"):
        expansion.take(ONCE + 65, 1)
    for _ in range(TOTAL // ONCE):
        expansion.take(ONCE, 0)
    with pytest.raises(ValueError, match="STEPTRACE_TRUST=1"):
        expansion.take(ONCE, 0)


def test_cells_of_a_grid_are_found_one_at_a_time() -> None:
    cells = overlaps((slice(0, 2**60), slice(0, 2**60)), (8, 8))
    assert [next(cells)[0] for _ in range(2)] == [(0, 0), (0, 1)]


def test_text_of_a_trace_is_printed_on_one_line_without_control_characters(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[31mred\n$x$ <b>\u202e" + "y" * 5000

    def change(fields: dict[str, Any]) -> None:
        fields["attributes"]["steptrace"].update(producer=evil, run_id=evil, loss=evil)

    edit_metadata(store, "", change)
    for command in ("info", "anomalies", "validate"):
        run([command, str(store)])
    said = "".join(capsys.readouterr())
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert max(map(len, said.splitlines())) < 3000


def test_a_shard_of_right_chunks_is_read() -> None:
    index = shard_of([b"ab", b"cde"], (2,))
    assert np.frombuffer(index[5:-4], "<u8").tolist() == [0, 2, 2, 3]


def test_a_link_is_not_packed(store: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("precious")
    (store / "notes").symlink_to(secret)
    with pytest.raises(TraceError, match="is a link, so the trace is not packed"):
        pack(store)
