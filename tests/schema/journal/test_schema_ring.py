"""What a ring holds is what was written into it, whenever its writer was torn from it."""

from __future__ import annotations

import itertools
import resource
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journals import Arrays, random_steps, write_journal
from steptrace_analyzer.trace.open import open_trace
from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.journal.lasting import lasting
from steptrace_schema.journal.pending import PendingRecords
from steptrace_schema.journal.place import FilePlace, SlotPlace
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.record import Record
from steptrace_schema.journal.ring import MOST_SLOTS, RingSize
from steptrace_schema.journal.ring_writer import RingWriter
from steptrace_schema.journal.where import journal_path
from steptrace_schema.moving.recover import recover
from steptrace_schema.storage.durability import persistence
from steptrace_schema.store.opening import read_attributes

if TYPE_CHECKING:
    from pathlib import Path

    from steptrace_schema.journal.place import Place

PAGE = 4096
ENTRY = 32
"""Bytes of the head, and of each entry of the table behind it."""


def _parts(index: int, length: int) -> list[memoryview]:
    content = np.random.default_rng(index).bytes(length)
    return [memoryview(content[: length // 3]), memoryview(content[length // 3 :])]


def _content(place: Place) -> bytes:
    target = bytearray(place.nbytes)
    place.read(0, memoryview(target))
    return bytes(target)


def _writer(folder: Path, slots: int, slot_bytes: int = 3 * PAGE) -> RingWriter:
    return RingWriter(folder / "ring", RingSize(slots, slot_bytes), persistence("process"))


@settings(max_examples=60, deadline=None)
@given(
    slots=st.integers(1, 5),
    acts=st.lists(
        st.none()
        | st.integers(0, 3 * PAGE + 1)
        | st.tuples(st.integers(1, 4), st.integers(1, PAGE)),
        max_size=30,
    ),
)
def test_records_are_read_as_they_were_written_however_often_slots_are_used(
    tmp_path_factory: pytest.TempPathFactory,
    slots: int,
    acts: list[int | tuple[int, int] | None],
) -> None:
    """None moves the oldest record; numbers write so many records, or one, of so many bytes."""
    folder = tmp_path_factory.mktemp("journal")
    writer, reader = _writer(folder, slots), JournalReader(folder)
    expected: dict[int, bytes] = {}
    steps: dict[int, int] = {}
    for index, act in enumerate(acts):
        index *= 10
        if act is None:
            oldest = reader.places()[:1]
            reader.release(oldest)
            for place in oldest:
                del expected[place.index]
        elif isinstance(act, tuple):
            count = act[0]
            rows = np.random.default_rng(index).integers(0, 256, act, np.uint8)
            has_room = len(expected) + count <= slots
            assert writer.put_rows(index, 7 * index, rows) == has_room
            if has_room:
                expected |= {index + n: row.tobytes() for n, row in enumerate(rows)}
                steps |= {index + n: 7 * index + n for n in range(count)}
        else:
            buffers = _parts(index, act)
            has_room = len(expected) < slots and act <= 3 * PAGE
            assert writer.put(index, 7 * index, buffers) == has_room
            if has_room:
                expected[index], steps[index] = b"".join(buffers), 7 * index
        found = JournalReader(folder).places()
        assert {place.index: _content(place) for place in found} == expected
        assert [place.step for place in found] == [steps[index] for index in expected]
        pending = reader.pending()
        assert (pending.records, pending.nbytes) == (
            len(expected),
            sum(map(len, expected.values())),
        )


def test_the_slots_that_were_used_last_are_used_again(tmp_path: Path) -> None:
    """As much of the file is ever written as records wait at a time."""
    writer, reader = _writer(tmp_path, 100), JournalReader(tmp_path)
    for index in range(300):
        assert writer.put(index, index, _parts(index, PAGE))
        if index % 4 == 3:
            reader.release(reader.places())
    assert (tmp_path / "ring").stat().st_blocks * 512 < 12 * 3 * PAGE


def _stores(before: bytes, after: bytes) -> list[tuple[int, int]]:
    """Return what a commit stores, as pieces that reach the disk in any order."""
    words = [(at, at + 8) for at in range(0, PAGE, 8)]
    pages = [(at, at + PAGE) for at in range(PAGE, len(after), PAGE)]
    return [(a, b) for a, b in (*words, *pages) if before[a:b] != after[a:b]]


@pytest.mark.parametrize("length", [1, 100, PAGE, 2 * PAGE + 5])
@pytest.mark.parametrize("reused", [False, True])
def test_whatever_part_of_a_commit_is_stored_nothing_else_is_taken_for_a_step(
    tmp_path: Path, length: int, reused: bool
) -> None:
    """Every subset of its stores, which is every order that it can be cut in."""
    path = tmp_path / "ring"
    writer, reader = _writer(tmp_path, 2), JournalReader(tmp_path)
    if reused:
        assert writer.put(0, 0, _parts(0, 3 * PAGE))
    assert writer.put(1, 1, _parts(1, 2 * PAGE))
    if reused:
        reader.release(reader.places()[:1])
    before = path.read_bytes()
    assert writer.put(2, 2, _parts(2, length))
    after = path.read_bytes()
    whole, other = b"".join(_parts(2, length)), b"".join(_parts(1, 2 * PAGE))
    stores = _stores(before, after)
    assert len(stores) >= 5
    states = 0
    for chosen in itertools.product([False, True], repeat=len(stores)):
        content = bytearray(before)
        for (begin, end), is_stored in zip(stores, chosen, strict=True):
            if is_stored:
                content[begin:end] = after[begin:end]
        path.write_bytes(content)
        found = {place.index: _content(place) for place in JournalReader(tmp_path).places()}
        assert found == ({1: other, 2: whole} if all(chosen) else {1: other}), chosen
        states += 1
    assert states == 2 ** len(stores)


def test_whatever_part_of_a_release_is_stored_a_record_is_whole_or_gone(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    writer = _writer(tmp_path, 2)
    for index in range(2):
        assert writer.put(index, index, _parts(index, 500))
    before = path.read_bytes()
    reader = JournalReader(tmp_path)
    reader.release(reader.places()[:1])
    after = path.read_bytes()
    stores = _stores(before, after)
    for chosen in itertools.product([False, True], repeat=len(stores)):
        content = bytearray(before)
        for (begin, end), is_stored in zip(stores, chosen, strict=True):
            if is_stored:
                content[begin:end] = after[begin:end]
        path.write_bytes(content)
        found = {place.index: _content(place) for place in JournalReader(tmp_path).places()}
        assert found.pop(1) == b"".join(_parts(1, 500))
        assert found in ({}, {0: b"".join(_parts(0, 500))})


def test_a_copy_of_a_slot_that_is_used_again_meanwhile_is_not_taken_for_the_record(
    tmp_path: Path,
) -> None:
    store = tmp_path / "run.zarr"
    steps = random_steps(2)
    writer = write_journal(store, steps[:1], specify_for=steps, ring=RingSize(2, PAGE))
    reader = JournalReader(writer.directory, checks=False)
    (place,) = reader.places()
    record = lasting(place)
    assert record is not None
    reader.release([place])
    writer.append(*steps[1])
    with pytest.raises(DamagedTraceError, match="used for another one"):
        lasting(place)
    for key, expected in steps[0][1].items():
        assert record.read(key).tobytes() == expected.tobytes()


def test_an_opened_trace_outlives_the_move_of_its_records(tmp_path: Path) -> None:
    store, steps = tmp_path / "run.zarr", random_steps(6)
    writer = write_journal(store, steps[:4], specify_for=steps, ring=RingSize(4, PAGE))
    trace = open_trace(store)
    reader = JournalReader(writer.directory)
    reader.release(reader.places())
    for step, arrays in steps[4:]:
        writer.append(step, arrays)
    kernel = np.asarray(trace["weights/dense/kernel"])
    for found, (_, arrays) in zip(kernel, steps, strict=False):
        assert found.tobytes() == arrays["weights/dense/kernel"].tobytes()
    assert len(kernel) == 4


@pytest.mark.parametrize("lost", [[4], [1, 2], [0, 4]])
def test_records_that_a_loss_of_power_reached_are_left_out_and_said(
    tmp_path: Path, lost: list[int]
) -> None:
    store, steps = tmp_path / "run.zarr", random_steps(4)
    writer = write_journal(store, steps, ring=RingSize(8, PAGE))
    writer._release()
    path = writer.directory / "ring"
    content = bytearray(path.read_bytes())
    for slot in lost:
        content[PAGE * (1 + slot) + 20] ^= 1
    path.write_bytes(content)
    left = [step for step in range(4) if step not in lost]
    assert _steps(store) == left
    assert recover(store) == 5 - len(lost)
    assert _steps(store) == left
    (event,) = read_attributes(store).events
    assert event.message.startswith(f"{len(lost)} of the last records in the journal were not")


def _steps(store: Path) -> list[int]:
    found: Any = open_trace(store)["scalars/step"]
    return [int(step) for step in found.to_numpy()]


def _places(*indices: int) -> dict[int, Place]:
    from pathlib import Path

    return {index: FilePlace(Path(f"{index:08d}.safetensors")) for index in indices}


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([_places(3, 4, 5)], [3, 4, 5]),
        ([_places(3, 5), _places(3, 4, 5, 7)], [3, 4, 5]),  # 4 was written after it was looked for
        ([_places(3, 5), _places(3, 5)], [3, 5]),  # 4 was taken away
        ([_places(3, 5), _places()], []),  # all have been moved
    ],
)
def test_no_record_is_seen_before_one_that_was_written_earlier(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    looks: list[dict[int, Place]],
    expected: list[int],
) -> None:
    pending = PendingRecords(tmp_path)
    monkeypatch.setattr(pending, "_places", iter(looks).__next__)
    assert [place.index for place in pending.places()] == expected


def _ring_of(journal: Path, steps: list[tuple[int, Arrays]]) -> Path:
    write_journal(journal, steps, ring=RingSize(8, PAGE))._release()
    return journal_path(journal) / "ring"


@pytest.mark.parametrize(
    ("begin", "content"),
    [
        (0, b"steptrace ring 2"),
        (0, b"\0" * 32),
        (16, (0).to_bytes(8, "little")),
        (16, (9).to_bytes(8, "little")),
        (16, (MOST_SLOTS + 1).to_bytes(8, "little")),
        (16, (2**64 - 1).to_bytes(8, "little") * 2),
        (24, (2**63).to_bytes(8, "little")),
        (24, (0).to_bytes(8, "little")),
    ],
)
def test_a_ring_whose_first_bytes_do_not_fit_is_named(
    tmp_path: Path, begin: int, content: bytes
) -> None:
    path = _ring_of(tmp_path / "run.zarr", random_steps(2))
    damaged = bytearray(path.read_bytes())
    damaged[begin : begin + len(content)] = content
    path.write_bytes(damaged)
    for act in (recover, open_trace):
        with pytest.raises(DamagedTraceError, match=r"ring is no ring of records"):
            act(tmp_path / "run.zarr")


@pytest.mark.parametrize("size", [0, 31, 32, 5000])
def test_a_ring_that_was_cut_is_named(tmp_path: Path, size: int) -> None:
    path = _ring_of(tmp_path / "run.zarr", random_steps(2))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DamagedTraceError, match="move it away"):
        recover(tmp_path / "run.zarr")
    path.unlink()
    assert recover(tmp_path / "run.zarr") == 0


@pytest.mark.parametrize("field", range(4))
@pytest.mark.parametrize("value", [0, 5, 10**12, 2**63, 2**64 - 1])
def test_an_entry_that_is_not_true_is_no_record(tmp_path: Path, field: int, value: int) -> None:
    path = _ring_of(tmp_path / "run.zarr", random_steps(3))
    damaged = bytearray(path.read_bytes())
    begin = 32 + ENTRY * 2 + 8 * field
    damaged[begin : begin + 8] = value.to_bytes(8, "little")
    path.write_bytes(damaged)
    assert recover(tmp_path / "run.zarr") == 3
    steps = _steps(tmp_path / "run.zarr")
    assert steps == [0, 1]


def test_a_file_of_holes_is_not_read_into_memory(tmp_path: Path) -> None:
    path = _ring_of(tmp_path / "run.zarr", random_steps(1))
    size = RingSize(8, 2**40)
    with path.open("r+b") as file:
        file.write(b"steptrace ring 1" + np.array([8, 2**40], "<u8").tobytes())
        file.write(np.array([1, 2**40, 0, 0, 0, 0, 0, 0], "<u8").tobytes())
        file.truncate(size.nbytes)
    assert JournalReader(path.parent, checks=False).places() == []
    assert len(open_trace(tmp_path / "run.zarr").children) == 0


def test_a_slot_that_is_a_record_without_arrays_or_none_at_all_is_named(tmp_path: Path) -> None:
    writer, reader = _writer(tmp_path, 2), JournalReader(tmp_path)
    assert writer.put(0, 0, _parts(0, 64))
    (place,) = reader.places()
    assert isinstance(place, SlotPlace)
    with pytest.raises(DamagedTraceError, match="not a readable journal record"):
        Record(place)


def test_where_no_such_file_is_allowed_every_record_has_a_file(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        writer = write_journal(tmp_path / "run.zarr", random_steps(2), ring=RingSize(1000, PAGE))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    files = {path.name for path in writer.directory.iterdir()}
    assert len([name for name in files if name.endswith(".safetensors")]) == 3
    assert not any("ring" in name for name in files)
    writer._release()
    assert recover(tmp_path / "run.zarr") == 3


def test_a_step_that_is_larger_than_a_slot_has_a_file_of_its_own(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    steps: list[tuple[int, Arrays]] = [
        (step, {"weights/a": np.full(size, step, np.float32), "scalars/loss": np.array(step, "f4")})
        for step, size in enumerate((10, 5000, 10, 5000, 20))
    ]
    writer = write_journal(store, steps, ring=RingSize(4, PAGE), shard_steps=2)
    files = sorted(path.name for path in writer.directory.glob("*.safetensors"))
    assert files == ["00000001.safetensors", "00000003.safetensors"]
    writer._release()
    assert recover(store) == 5
    found: Any = open_trace(store)["weights/a"]
    for (_, arrays), row in zip(steps, found.to_numpy(), strict=True):
        values = arrays["weights/a"]
        assert row[: len(values)].tobytes() == values.tobytes()
        assert np.isnan(row[len(values) :]).all()
