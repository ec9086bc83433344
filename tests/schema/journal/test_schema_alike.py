"""What is read of many records at once is what each of them holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from journals import Arrays, write_journal
from steptrace_schema.journal.alike import SmallArrays
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.record import Record
from steptrace_schema.journal.record_file import HEAD_BYTES
from steptrace_schema.journal.ring import RingSize

if TYPE_CHECKING:
    from pathlib import Path

SHAPES: dict[str, tuple[int, ...]] = {
    "weights/a": (3, 5),
    "weights/b": (),
    "gradients/large": (HEAD_BYTES,),
    "logged/empty": (0, 2),
    "scalars/loss": (),
}
TYPES = {
    "weights/b": "f8",
    "gradients/large": "?",
    "logged/empty": "i8",
    "scalars/loss": "f2",
}


def _steps(count: int) -> list[tuple[int, Arrays]]:
    rng = np.random.default_rng(0)
    return [
        (
            step,
            {
                key: np.array(100 * rng.random(shape), TYPES.get(key, "f4"))
                for key, shape in SHAPES.items()
            }
            | {"inputs/flag": np.array([step % 2 == 0, True])},
        )
        for step in range(count)
    ]


def _records(store: Path, steps: list[tuple[int, Arrays]], ring: RingSize | None) -> list[Record]:
    writer = write_journal(store, steps, ring=ring)
    return [Record(place) for place in JournalReader(writer.directory).places()]


def test_rows_that_are_read_at_once_are_those_of_each_record(tmp_path: Path) -> None:
    steps = _steps(6)
    small = SmallArrays(_records(tmp_path / "run.zarr", steps, RingSize(8, 2**17)))
    for key in (*SHAPES, "inputs/flag"):
        expected = np.stack([arrays[key] for _, arrays in steps])
        rows = np.full_like(expected, 7)
        is_small = 0 < expected[0].nbytes < HEAD_BYTES
        assert small.read_rows(key, rows) == (list(range(6)) if is_small else [])
        assert rows.tobytes() == (expected if is_small else np.full_like(expected, 7)).tobytes()


def test_records_with_more_arrays_are_read_with_those_like_them(tmp_path: Path) -> None:
    steps = _steps(7)
    for step in (1, 4):
        steps[step][1]["probe/a"] = np.arange(step, step + 40, dtype=np.float32)
    steps[5][1]["probe/b"] = np.zeros(3)  # laid out like no other
    small = SmallArrays(_records(tmp_path / "run.zarr", steps, RingSize(8, 2**17)))
    rows = np.full((7, 3, 5), 7, np.float32)
    assert sorted(small.read_rows("weights/a", rows)) == [0, 1, 2, 3, 4, 6]
    expected = np.stack([arrays["weights/a"] for _, arrays in steps])
    expected[5] = 7
    assert rows.tobytes() == expected.tobytes()
    probe = np.zeros((7, 40), np.float32)
    assert small.read_rows("probe/a", probe) == [1, 4]
    assert probe[[1, 4], 0].tolist() == [1, 4]
    assert not probe[[0, 2, 3, 5, 6]].any()


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        ("weights/a", np.zeros((2, 3, 4), np.float32)),
        ("weights/a", np.zeros((2, 3, 5), np.float64)),
        ("weights/c", np.zeros((2, 3, 5), np.float32)),
    ],
)
def test_rows_of_another_shape_or_type_are_not_read(tmp_path: Path, key: str, rows: Any) -> None:
    small = SmallArrays(_records(tmp_path / "run.zarr", _steps(2), RingSize(8, 2**17)))
    assert small.read_rows(key, rows) == []
    assert not rows.any()
