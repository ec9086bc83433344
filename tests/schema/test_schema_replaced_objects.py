"""An object that is replaced while it is read is read as it was or as it is, not as damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from obstore.store import MemoryStore
from zarr.storage import LocalStore, ObjectStore

from steptrace_schema import codecs, reading
from steptrace_schema.codecs import Encoding, encoding
from steptrace_schema.layout import ArraySpec
from steptrace_schema.location import Remote
from steptrace_schema.reading import location_objects, read_region
from steptrace_schema.writer import ArrayWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zarr.abc.store import Store

    from steptrace_schema.location import Location

SPEC = ArraySpec("weights", "a", ("in", "out"), (20, 64), "float32")
REGION = (slice(0, 3), slice(0, 20), slice(32, 40))
"""Of one chunk of eight, which moves when the chunks before it grow."""


@pytest.fixture(params=["folder", "object store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Location, Store]:
    if request.param == "folder":
        return tmp_path, LocalStore(tmp_path)
    return Remote("s3://bucket/run.zarr"), ObjectStore(MemoryStore())


@pytest.fixture
def array(monkeypatch: pytest.MonkeyPatch, place: tuple[Location, Store]) -> zarr.Array[Any]:
    monkeypatch.setattr(codecs, "_SMALL_CHUNK", 256)
    found = encoding(SPEC, "fast", 16)
    return zarr.create_array(
        place[1],
        name="weights/a",
        shape=(16, *SPEC.shape),
        dtype="float32",
        fill_value=np.nan,
        **found.keywords(),
    )


def _after_the_index(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Let something happen once, after the index of a shard was read and before its chunks."""
    pending = [act]

    def checked(data: Any) -> bytes:
        if pending:
            pending.pop()()
        return codecs.checksum(data)

    monkeypatch.setattr(reading, "checksum", checked)


def test_rows_are_read_while_a_writer_adds_more_to_their_object(
    monkeypatch: pytest.MonkeyPatch, place: tuple[Location, Store], array: zarr.Array[Any]
) -> None:
    values = np.random.default_rng(0).normal(size=(8, *SPEC.shape)).astype(np.float32)
    writer = ArrayWriter(place[1], "weights/a", array)
    writer.write(0, values[:3])
    _after_the_index(monkeypatch, lambda: writer.write(3, values[3:]))
    objects = location_objects(place[0], "weights/a", array)
    found = read_region(Encoding.of(array), REGION, array.dtype, array.fill_value, objects)
    assert np.array_equal(found, values[REGION])


def test_an_object_that_is_damaged_stays_so(
    monkeypatch: pytest.MonkeyPatch, place: tuple[Location, Store], array: zarr.Array[Any]
) -> None:
    values = np.random.default_rng(0).normal(size=(8, *SPEC.shape)).astype(np.float32)
    ArrayWriter(place[1], "weights/a", array).write(0, values)
    decode = Encoding.decode

    def flipped(self: Encoding, data: Any, dtype: Any) -> Any:
        content = bytearray(data)
        content[5] ^= 1
        return decode(self, bytes(content), dtype)

    monkeypatch.setattr(Encoding, "decode", flipped)
    objects = location_objects(place[0], "weights/a", array)
    with pytest.raises(ValueError, match="checksum"):
        read_region(Encoding.of(array), REGION, array.dtype, array.fill_value, objects)
