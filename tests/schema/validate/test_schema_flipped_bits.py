"""A flipped bit anywhere in a trace is named, and everything else stays readable."""

from __future__ import annotations

import contextlib
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from journals import attributes, random_steps, write_journal
from steptrace_analyzer.trace.open import open_trace
from steptrace_analyzer.trace.packing import pack
from steptrace_schema.encoding import chunk_shapes
from steptrace_schema.errors import DamagedTraceError, TraceError
from steptrace_schema.format.layout import ArraySpec
from steptrace_schema.journal.declaration import Declaration
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.moving.recover import recover
from steptrace_schema.validate import Problem, validate

if TYPE_CHECKING:
    from collections.abc import Iterator

FLIPS: Final = 40
SHARD_STEPS: Final = 8
ROOT: Final = Path("zarr.json")
TENSORS: Final = ("weights/dense/kernel", "gradients/dense/kernel")
KERNEL: Final = TENSORS[0]
BITS: Final = st.integers(0, 2**23)  # small enough to be drawn evenly
"""Which bit, as a number that is taken modulo those there are."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished trace of 21 steps, with a static array and statistics."""
    store = tmp_path_factory.mktemp("whole") / "run.zarr"
    steps = random_steps(21)
    writer = write_journal(store, steps, shard_steps=SHARD_STEPS)
    arrays = JournalReader(writer.directory).declaration().arrays
    static = ArraySpec("probe", "x", ("sample",), (5,), "float32", static=True)
    declared = {"probe": ("x",)}
    described = attributes(shard_steps=SHARD_STEPS, declared=declared)
    writer.declare(Declaration(described, (*arrays, static)))
    writer.append(22, {static.key: np.arange(5, dtype=np.float32)})
    writer.close("complete", None, described)
    recover(store)
    assert _problems(store) == []
    return store


@pytest.fixture(scope="module")
def values(whole: Path) -> dict[str, bytes]:
    """Return every stored array, as it is read back."""
    tree = open_trace(whole)
    keys = (path.parent.relative_to(whole).as_posix() for path in whole.rglob("zarr.json"))
    return {key: _values(tree, key) for key in keys if isinstance(tree.get(key), xr.DataArray)}


@pytest.fixture(scope="module")
def packed(whole: Path) -> Path:
    return pack(whole)


def _files(store: Path) -> list[Path]:
    return sorted(path.relative_to(store) for path in store.rglob("*") if path.is_file())


@contextlib.contextmanager
def _flipped(path: Path, bit: int) -> Iterator[bytes]:
    """Flip a bit of a file for a while; yield what the file holds then."""
    before = path.read_bytes()
    content = bytearray(before)
    bit %= 8 * len(content)
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(content))
    try:
        yield bytes(content)
    finally:
        path.write_bytes(before)


def _problems(store: Path) -> list[Problem]:
    return [p for p in validate(store) if p.rule != "R11"]  # these have few scalars


def _values(tree: xr.DataTree, key: str) -> bytes:
    found = tree[key]
    assert isinstance(found, xr.DataArray)
    return found.to_numpy().tobytes()


def _parsed(content: bytes) -> object:
    with contextlib.suppress(ValueError):
        return json.loads(content)
    return None


def _assert_rest_reads(store: Path, values: dict[str, bytes], damaged: str | None) -> None:
    tree = open_trace(store)
    for key in values.keys() - {damaged}:
        assert _values(tree, key) == values[key]


@settings(max_examples=FLIPS)
@given(data=st.data(), bit=BITS)
def test_a_flipped_bit_of_a_chunk_is_named_with_its_array_chunk_and_steps(
    whole: Path, values: dict[str, bytes], data: st.DataObject, bit: int
) -> None:
    chunk = data.draw(st.sampled_from([f for f in _files(whole) if f.name != ROOT.name]))
    key, _, place = chunk.as_posix().rpartition("/c.")
    sound = {tensor: open_trace(whole)[tensor].to_numpy() for tensor in TENSORS}
    with _flipped(whole / chunk, bit):
        problems = _problems(whole)
        assert {(p.path, p.rule) for p in problems} == {(key, "R18")}
        assert f"c.{place}" in problems[0].found
        assert ("steps" in problems[0].found) == (key != "probe/x" and not key.endswith("step"))
        if key.endswith("/step"):  # without its steps a kind cannot be told apart by step
            with pytest.raises(DamagedTraceError, match=f"'{key}'"):
                open_trace(whole)
            return
        _assert_rest_reads(whole, values, key)
        tree = open_trace(whole)
        with pytest.raises(DamagedTraceError, match=f"'{key}'"):
            _values(tree, key)
        if key in TENSORS:
            row = SHARD_STEPS * int(place.partition(".")[0])
            for start in {0, 8, 16} - {row}:
                rows = slice(start, start + SHARD_STEPS)
                assert np.array_equal(tree[key].isel(step=rows).to_numpy(), sound[key][rows])


@settings(max_examples=FLIPS)
@given(data=st.data(), bit=BITS)
def test_a_flipped_bit_of_metadata_is_named_with_its_group_or_array_and_nothing_is_lost(
    whole: Path, values: dict[str, bytes], data: st.DataObject, bit: int
) -> None:
    files = [f for f in _files(whole) if f.name == ROOT.name and f != ROOT]
    file = data.draw(st.sampled_from(files))
    before = json.loads((whole / file).read_bytes())
    with _flipped(whole / file, bit) as content:
        problems = _problems(whole)
        if _parsed(content) == before:  # as white space that is another one
            assert problems == []
        else:
            named = {p.path.strip("/") for p in problems if p.rule in ("R2", "R20")}
            assert named == {file.parent.as_posix()}
            assert any(file.as_posix() in p.found for p in problems)
        _assert_rest_reads(whole, values, None)  # the root has a copy


@settings(max_examples=FLIPS)
@given(bit=BITS)
def test_a_flipped_bit_of_the_root_is_named_and_opens_or_fails_with_a_sentence(
    whole: Path, bit: int
) -> None:
    with _flipped(whole / ROOT, bit):
        problems = _problems(whole)
        assert "/" in {p.path for p in problems if p.rule in ("R1", "R2", "R3", "R4", "R19")}
        with contextlib.suppress(TraceError):
            tree = open_trace(whole)
            for tensor in TENSORS:
                with contextlib.suppress(TraceError):
                    _values(tree, tensor)


@settings(max_examples=FLIPS)
@given(bit=BITS)
def test_a_flipped_bit_of_a_packed_trace_is_named_or_changes_no_file_of_it(
    packed: Path, bit: int
) -> None:
    with zipfile.ZipFile(packed) as archive:
        before = {name: archive.read(name) for name in archive.namelist()}
    with _flipped(packed, bit):
        if not _problems(packed):  # as the time at which a member was packed
            with zipfile.ZipFile(packed) as archive:
                assert {name: archive.read(name) for name in archive.namelist()} == before
        with contextlib.suppress(TraceError):
            tree = open_trace(packed)
            for tensor in TENSORS:
                with contextlib.suppress(TraceError):
                    _values(tree, tensor)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a trace whose shards have chunks of 8 steps and 8 units: 2 by 4 of them."""
    store = tmp_path_factory.mktemp("cut") / "run.zarr"
    rng = np.random.default_rng(0)
    steps = [(s, {KERNEL: rng.normal(size=(6, 32)).astype(np.float32)}) for s in range(10, 34)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunk_shapes, "_SMALL_CHUNK", 256)
        write_journal(store, steps, shard_steps=16).close(
            "complete", None, attributes(shard_steps=16)
        )
        recover(store)
    array = zarr.open_array(store / KERNEL, mode="r")
    assert (array.shards, array.chunks) == ((16, 6, 32), (8, 6, 8))
    return store


@settings(max_examples=FLIPS)
@given(chunk=st.tuples(st.integers(0, 2), st.just(0), st.integers(0, 3)), bit=BITS)
def test_a_flipped_bit_hurts_one_chunk_of_a_shard_and_is_named_with_it(
    cut: Path, chunk: tuple[int, int, int], bit: int
) -> None:
    sound = open_trace(cut)[KERNEL].to_numpy()
    name = f"c.{chunk[0] // 2}.0.0"
    file = cut / KERNEL / name
    steps, units = slice(8 * chunk[0], 8 * chunk[0] + 8), slice(8 * chunk[2], 8 * chunk[2] + 8)
    table = np.frombuffer(file.read_bytes()[-(8 * 16 + 4) : -4], "<u8").reshape(2, 1, 4, 2)
    offset, size = table[chunk[0] % 2, 0, chunk[2]].tolist()
    with _flipped(file, 8 * offset + bit % (8 * size)):
        found = [(p.path, p.rule, p.found) for p in _problems(cut)]
        first = 10 + steps.start
        where = f"steps {first} to {first + 7}, d1 {units.start} to {units.stop - 1}"
        file_name = f"file {KERNEL}/{name}"
        what = f"ValueError in chunk {chunk} of {file_name}, missing or damaged: {where}"
        assert found == [(KERNEL, "R18", what)]
        kernel = open_trace(cut)[KERNEL]
        assert isinstance(kernel, xr.DataArray)
        for step in range(0, 24, 8):
            for unit in range(0, 32, 8):
                part = kernel.isel(step=slice(step, step + 8), d1=slice(unit, unit + 8))
                if (step, unit) == (steps.start, units.start):
                    with pytest.raises(DamagedTraceError, match=rf"rows {step} to {step + 7}"):
                        part.to_numpy()
                else:
                    wanted = sound[step : step + 8, :, unit : unit + 8]
                    assert part.to_numpy().tobytes() == wanted.tobytes()


@settings(max_examples=20)
@given(bit=BITS)
def test_a_flipped_bit_in_the_index_of_a_shard_is_named_once(cut: Path, bit: int) -> None:
    file = cut / KERNEL / "c.0.0.0"
    length = 8 * 16 + 4
    with _flipped(file, 8 * (file.stat().st_size - length) + bit % (8 * length)):
        (problem,) = _problems(cut)
        assert problem.found.endswith(
            "in file weights/dense/kernel/c.0.0.0, missing or damaged: steps 10 to 25"
        )
