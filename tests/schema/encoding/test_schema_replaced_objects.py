"""An object that is replaced while it is read is read as it was or as it is, not as damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from obstore.store import MemoryStore
from zarr.storage import LocalStore, ObjectStore

from steptrace_schema.encoding import chunk_shapes, codecs
from steptrace_schema.encoding import read_region as reading
from steptrace_schema.encoding.codecs import Encoding
from steptrace_schema.encoding.objects import RemoteSource, Source, source_of
from steptrace_schema.encoding.profiles import encoding
from steptrace_schema.encoding.read_region import read_region
from steptrace_schema.format.layout import ArraySpec
from steptrace_schema.storage.files import Files, LocalFiles
from steptrace_schema.storage.object_store import Remote
from steptrace_schema.store.array_writer import ArrayWriter
from steptrace_schema.store.node_metadata import array_metadata
from steptrace_schema.store.nodes import Nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy.typing as npt
    from typing_extensions import Buffer
    from zarr.abc.store import Store

    from steptrace_schema.encoding.objects import Read

KEY = "weights/a"
SPEC = ArraySpec("weights", "a", ("in", "out"), (20, 64), "float32")
REGION = (slice(0, 3), slice(0, 20), slice(32, 40))
"""Of one chunk of eight, which moves when the chunks before it grow."""


class _Objects(Files):
    """The files of an object store in memory."""

    def __init__(self, store: MemoryStore) -> None:
        self.location = Remote("s3://bucket/run.zarr")
        self.store = store

    def put(self, name: str, pieces: Sequence[Buffer]) -> None:
        self.store.put(name, b"".join(pieces))

    def replace(self, name: str, pieces: Sequence[Buffer]) -> None:
        self.put(name, pieces)


Place = tuple[Files, "Store"]


@pytest.fixture(params=["folder", "object store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return LocalFiles(tmp_path), LocalStore(tmp_path)
    store = MemoryStore()
    return _Objects(store), ObjectStore(store)


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch, place: Place) -> ArrayWriter:
    monkeypatch.setattr(chunk_shapes, "_SMALL_CHUNK", 256)
    found = encoding(SPEC, "fast", 16)
    dims = ("step", *SPEC.dims)
    nodes = Nodes(place[0], {})
    nodes.create(KEY, array_metadata((16, *SPEC.shape), SPEC.dtype, dims, found, {}))
    return ArrayWriter(nodes, KEY)


def _read(place: Place) -> npt.NDArray[Any]:
    files, store = place
    array = zarr.open_array(store, path=KEY, mode="r")
    source: Source
    if isinstance(files, _Objects):
        source = RemoteSource(Remote("s3://bucket/run.zarr"), files.store)
    else:
        source = source_of(files.location)

    def objects(position: tuple[int, ...]) -> AbstractContextManager[Read]:
        return source.opened(f"{KEY}/{array.metadata.encode_chunk_key(position)}")

    return read_region(Encoding.of(array), REGION, array.dtype, array.fill_value, objects)


def _after_the_index(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Let something happen once, after the index of a shard was read and before its chunks."""
    pending = [act]

    def checked(data: Any) -> bytes:
        if pending:
            pending.pop()()
        return codecs.checksum(data)

    monkeypatch.setattr(reading, "checksum", checked)


def test_rows_are_read_while_a_writer_adds_more_to_their_object(
    monkeypatch: pytest.MonkeyPatch, place: Place, writer: ArrayWriter
) -> None:
    values = np.random.default_rng(0).normal(size=(8, *SPEC.shape)).astype(np.float32)
    writer.write(0, values[:3])
    _after_the_index(monkeypatch, lambda: writer.write(3, values[3:]))
    assert np.array_equal(_read(place), values[REGION])


def test_an_object_that_is_damaged_stays_so(
    monkeypatch: pytest.MonkeyPatch, place: Place, writer: ArrayWriter
) -> None:
    values = np.random.default_rng(0).normal(size=(8, *SPEC.shape)).astype(np.float32)
    writer.write(0, values)
    decode_into = Encoding.decode_into

    def flipped(self: Encoding, data: Any, target: Any) -> None:
        content = bytearray(data)
        content[5] ^= 1
        decode_into(self, bytes(content), target)

    monkeypatch.setattr(Encoding, "decode_into", flipped)
    with pytest.raises(ValueError, match="checksum"):
        _read(place)
