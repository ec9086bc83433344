"""Records are safetensors files, as the package that defines them reads them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import load_file

from steptrace_schema.journal.place import FilePlace
from steptrace_schema.journal.record import Record
from steptrace_schema.journal.record_file import record_rows, write_record_file

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

_TYPES = ["?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"]
_NAMES = st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__")
_ARRAYS = st.sampled_from(_TYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))
)


_STACKS = st.sampled_from(_TYPES).flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0).map(lambda rest: (3, *rest))
    )
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(_NAMES, _STACKS, min_size=1))
def test_rows_of_steps_that_are_alike_are_the_files_of_each(
    tmp_path_factory: pytest.TempPathFactory, stacks: dict[str, npt.NDArray[Any]]
) -> None:
    path = tmp_path_factory.mktemp("record") / "a.safetensors"
    for number, row in enumerate(record_rows(stacks)):
        write_record_file(path, {key: values[number] for key, values in stacks.items()}, {})
        assert row.tobytes() == path.read_bytes()


@settings(max_examples=100)
@given(
    st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda k: k != "__metadata__"), _ARRAYS)
)
def test_what_is_written_is_what_safetensors_reads(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, npt.NDArray[Any]]
) -> None:
    path = tmp_path_factory.mktemp("record") / "a.safetensors"
    assert write_record_file(path, arrays, {"step": "12"}) == sum(a.nbytes for a in arrays.values())
    found = load_file(path)
    assert found.keys() == arrays.keys()
    for key, expected in arrays.items():
        assert found[key].dtype == expected.dtype
        assert found[key].shape == expected.shape
        assert found[key].tobytes() == expected.tobytes()
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"step": "12"}


def test_arrays_that_are_not_contiguous_are_written_in_order(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::3].T
    write_record_file(tmp_path / "a", {"a": array}, {})
    assert (load_file(tmp_path / "a")["a"] == array).all()


def test_a_system_call_that_writes_less_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {str(i): np.full(100 + i, i, np.int64) for i in range(600)}
    writev = os.writev

    def little(descriptor: int, buffers: list[memoryview]) -> int:
        return writev(descriptor, [buffers[0][:333]])

    monkeypatch.setattr(os, "writev", little)
    write_record_file(tmp_path / "a", arrays, {})
    found = load_file(tmp_path / "a")
    for key, expected in arrays.items():
        assert (found[key] == expected).all()


def test_a_type_that_safetensors_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'a' is of type complex64"):
        write_record_file(tmp_path / "a", {"a": np.zeros(2, np.complex64)}, {})


def test_small_arrays_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {str(i): np.full(30_000 if i % 2 else 10, i, np.float32) for i in range(20)}
    write_record_file(tmp_path / "0.safetensors", arrays, {"step": "0"})
    record, reads, preadv = Record(FilePlace(tmp_path / "0.safetensors")), [], os.preadv

    def counted(descriptor: int, buffers: list[memoryview], begin: int) -> int:
        reads.append(begin)
        return preadv(descriptor, buffers, begin)

    monkeypatch.setattr(os, "preadv", counted)
    for key, expected in arrays.items():
        found = np.empty_like(expected)
        record.read_into(key, found)
        assert (found == expected).all()
    assert len(reads) == 11  # the large ones, and the small ones at once
