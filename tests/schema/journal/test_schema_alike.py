"""What is read of many records at once is what each of them holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from journals import Arrays, write_journal
from steptrace_schema.journal.alike import RecordsAlike
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
    alike = RecordsAlike.of(_records(tmp_path / "run.zarr", steps, RingSize(8, 2**17)))
    assert alike is not None
    for key in (*SHAPES, "inputs/flag"):
        expected = np.stack([arrays[key] for _, arrays in steps])
        rows = np.full_like(expected, 7)
        is_small = 0 < expected[0].nbytes < HEAD_BYTES
        assert alike.read_rows(key, rows) == is_small
        assert rows.tobytes() == (expected if is_small else np.full_like(expected, 7)).tobytes()


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        ("weights/a", np.zeros((2, 3, 4), np.float32)),
        ("weights/a", np.zeros((2, 3, 5), np.float64)),
        ("weights/c", np.zeros((2, 3, 5), np.float32)),
    ],
)
def test_rows_of_another_shape_or_type_are_not_read(tmp_path: Path, key: str, rows: Any) -> None:
    alike = RecordsAlike.of(_records(tmp_path / "run.zarr", _steps(2), RingSize(8, 2**17)))
    assert alike is not None
    assert not alike.read_rows(key, rows)
    assert not rows.any()


def test_records_with_other_arrays_are_not_alike(tmp_path: Path) -> None:
    steps = _steps(3)
    del steps[1][1]["weights/a"]
    assert RecordsAlike.of(_records(tmp_path / "run.zarr", steps, RingSize(8, 2**17))) is None
