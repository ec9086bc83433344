"""Writing rows into a store, and committing them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import zarr
from zarr import AsyncArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.core.sync import sync
from zarr.storage import LocalStore

from steptrace_schema.codecs import Encoding, encoding, quiet
from steptrace_schema.consolidation import CONSOLIDATED, consolidated
from steptrace_schema.durable_store import lasting
from steptrace_schema.errors import TraceError
from steptrace_schema.layout import ArraySpec, fill_value
from steptrace_schema.limited_store import LimitedStore, Room
from steptrace_schema.location import (
    METADATA_FILE,
    Location,
    file_sizes,
    has_root,
    sweep,
    zarr_store,
)
from steptrace_schema.names import (
    ATTRIBUTES_KEY,
    STATISTIC,
    STATISTIC_NAMES,
    STATISTICS,
    STATISTICS_VALUES,
    STEP,
    TENSOR,
    Kind,
)
from steptrace_schema.sealing import sealed
from steptrace_schema.shards import objects
from steptrace_schema.store import read_attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from typing_extensions import Buffer
    from zarr.abc.store import Store
    from zarr.core.array_spec import ArrayConfigParams

    from steptrace_schema.attributes import TraceAttributes

STEP_CHUNK: Final = 1024
STATISTICS_CHUNK: Final = 256
_COMPRESSORS: Final = (BloscCodec(cname="lz4", shuffle="shuffle", typesize=8), Crc32cCodec())
_WRITE_ALL: Final[ArrayConfigParams] = {
    "write_empty_chunks": True
}  # all-NaN rows are data, not gaps
_ROOM: Final = 4  # stored objects along the step axis that a new array has room for
_LARGEST_TAIL: Final = 4 * 2**20


class ArrayWriter:
    """Writes rows of one array of a store.

    Rows go straight from memory into stored objects: Zarr's own writing takes milliseconds for each
    array, which for the many small ones of a trace is longer than everything else together.

    Parameters
    ----------
    store, key
        Where the array is.
    array
        The array as it is now.
    """

    def __init__(self, store: Store, key: str, array: zarr.Array[Any]) -> None:
        self._store = store
        self._key = key
        self._array = array.with_config(_WRITE_ALL)
        self._encoding = Encoding.of(array)
        self._tail: tuple[int, npt.NDArray[Any]] | None = None

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self._array.shape[1:]

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the array."""
        return dict(self._array.attrs)

    def describe(self, attributes: dict[str, Any]) -> None:
        """Add `attributes` to those of the array."""
        self._array.update_attributes(attributes)

    def make_room(self, rows: int, row_shape: tuple[int, ...], recorded: int) -> None:
        """Make the array large enough for `rows` rows of `row_shape`.

        It grows by half and more, so that its metadata are seldom rewritten: which rows are data is
        said in the root attributes alone.

        Parameters
        ----------
        rows, row_shape
            What is needed.
        recorded
            Rows that are data already. Where rows get larger, the new parts of these are filled up:
            every chunk of a recorded row is stored, so that one that is not there is known to be
            lost.
        """
        before = self._array.shape
        if before[0] < rows:
            unit = self._unit
            self._resize((-(-max(rows, 2 * before[0]) // unit) * unit, *before[1:]))
        if before[1:] == row_shape:
            return
        self._tail = None
        larger = _of_shape(self._array, (self._array.shape[0], *row_shape))
        for axis in range(1, len(before)):
            if row_shape[axis - 1] > before[axis] and recorded:
                region = [slice(0, recorded), *[slice(None)] * (len(before) - 1)]
                region[axis] = slice(before[axis], None)
                larger[tuple(region)] = larger.fill_value
        # Last, so that no recorded row of the array's shape lacks a chunk, even after a crash.
        self._resize(larger.shape)

    def fill_up(self, rows: int) -> None:
        """Store fill values for the first `rows` rows, if the array came later than those."""
        last = ((rows - 1) // self._unit, *[0] * (self._array.ndim - 1))
        if not sync(self._store.exists(self._object_key(last))):
            self._array[:rows] = self._array.fill_value

    def trim(self, rows: int) -> None:
        """Give the array exactly `rows` rows."""
        if self._array.shape[0] != rows:
            self._resize((rows, *self.row_shape))

    def write(self, start: int, rows: npt.NDArray[Any]) -> None:
        """Write whole `rows` (step, ...) from row `start` on, for which there must be room."""
        begin = start - start % self._unit
        if begin < start:
            rows = np.concatenate([self._rows_before(begin, start), rows])
        for position, pieces in objects(self._encoding, begin, rows, self._array.fill_value):
            # Only an object with earlier rows in it holds data already.
            store = replace if begin < start and begin // self._unit == position[0] else put
            store(self._store, self._object_key(position), pieces)
        end = begin + len(rows)
        tail = rows[len(rows) - end % self._unit :]
        self._tail = (end, tail.copy()) if tail.nbytes <= _LARGEST_TAIL else None

    def write_static(self, values: npt.NDArray[Any]) -> None:
        """Write an array that has no step dimension."""
        for position, pieces in objects(self._encoding, 0, values, self._array.fill_value):
            put(self._store, self._object_key(position), pieces)

    def read_row(self, row: int) -> npt.NDArray[Any]:
        """Return one row, as it is stored."""
        return np.asarray(self._array[row])

    @property
    def _unit(self) -> int:
        return (self._encoding.shards or self._encoding.chunks)[0]

    def _rows_before(self, begin: int, end: int) -> npt.NDArray[Any]:
        """Return the rows that share a stored object with row `end`."""
        if self._tail is not None and self._tail[0] == end and len(self._tail[1]) == end - begin:
            return self._tail[1]
        return np.asarray(self._array[begin:end])

    def _object_key(self, position: tuple[int, ...]) -> str:
        return f"{self._key}/{self._array.metadata.encode_chunk_key(position)}"

    def _resize(self, shape: tuple[int, ...]) -> None:
        # Not Array.resize: it looks for chunks to delete, one by one.
        self._array = _of_shape(self._array, shape)
        files = self._array.metadata.to_buffer_dict(default_buffer_prototype())
        for name, content in files.items():
            replace(self._store, f"{self._key}/{name}", [content.to_bytes()])


def _of_shape(array: zarr.Array[Any], shape: tuple[int, ...]) -> zarr.Array[Any]:
    """Return the array as it will be with another shape; what is stored says the old one."""
    metadata = array.metadata
    if not isinstance(metadata, ArrayV3Metadata):
        msg = f"{array.store_path} is not a Zarr v3 array"
        raise TraceError(msg)
    grown = AsyncArray(metadata=metadata.update_shape(shape), store_path=array.store_path)
    return zarr.Array(grown).with_config(_WRITE_ALL)


def replace(store: Store, key: str, pieces: Sequence[Buffer]) -> None:
    """Store an object that may be there already: afterwards it is the old or the new one."""
    if isinstance(store, LimitedStore):
        with store.room.taking(key, _length(pieces), beside=True):
            replace(store.inner, key, pieces)
        return
    path = _local_path(store, key)
    if path is None:
        put(store, key, pieces)
        return
    temporary = path.with_name(path.name + ".partial")
    _write(temporary, pieces)
    temporary.replace(path)


def put(store: Store, key: str, pieces: Sequence[Buffer]) -> None:
    """Store an object that nobody reads yet, because no commit has said that it is there."""
    if isinstance(store, LimitedStore):
        beside = _local_path(store.inner, key) is None
        with store.room.taking(key, _length(pieces), beside=beside):
            put(store.inner, key, pieces)
        return
    path = _local_path(store, key)
    if path is not None:
        _write(path, pieces)
        return
    buffer = default_buffer_prototype().buffer
    sync(store.set(key, buffer.from_bytes(b"".join(pieces))))


def _length(pieces: Sequence[Buffer]) -> int:
    return sum(memoryview(piece).nbytes for piece in pieces)


def _local_path(store: Store, key: str) -> Path | None:
    """Return the file of a local store: to write it takes a tenth of the way through Zarr."""
    return Path(store.root) / key if isinstance(store, LocalStore) else None


def _write(path: Path, pieces: Iterable[Buffer]) -> None:
    try:
        file = path.open("wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    with file:
        file.writelines(pieces)


class TraceWriter:
    """Writes rows into a store and commits them.

    Rows become part of the trace only with :meth:`commit`, one atomic write of the root attributes.

    Parameters
    ----------
    path
        Where the store is; made if it is not there.
    attributes
        Root attributes for a new store; those of an existing one are read from it.
    limit
        The most bytes that the store may take, with what is there; None for any number.

    Attributes
    ----------
    room
        What is left of the limit, where there is one.
    """

    def __init__(
        self, path: Location, attributes: TraceAttributes, limit: int | None = None
    ) -> None:
        self.path = path
        self.attributes = attributes
        self._arrays: dict[str, ArrayWriter] = {}
        self._groups: set[str] = set()
        # A folder without it is what a crash left of a store that was being made.
        self._is_new = not has_root(path)
        self._store = lasting(zarr_store(path, read_only=False), attributes.policy.durability)
        self._others: dict[str, Any] = {}
        self.room: Room | None = None
        if limit is not None:
            sweep(path)
            self.room = Room(limit, file_sizes(path))
            self._store = LimitedStore(self._store, self.room)
        if self._is_new:
            self._write_root(attributes, {})
        else:
            self.attributes = read_attributes(path)
            sweep(path)
        self._root = zarr.open_group(self._store, mode="r+", zarr_format=3, use_consolidated=False)
        self._others = {k: v for k, v in self._root.attrs.items() if k != ATTRIBUTES_KEY}

    def commit(self, attributes: TraceAttributes) -> None:
        """Make `attributes` the root attributes, and with them what they say is recorded."""
        self._write_root(attributes, {})
        self.attributes = attributes

    def trim(self) -> None:
        """Give every array exactly the rows that are recorded."""
        if not self._is_new:  # other processes have written arrays that this one never saw
            with quiet():
                members = dict(self._root.members(max_depth=None))
            for key, array in members.items():
                if isinstance(array, zarr.Array) and key not in self._arrays:
                    names = getattr(array.metadata, "dimension_names", None) or (None,)
                    if names[0] == STEP:
                        self._arrays[key] = ArrayWriter(self._root.store, key, array)
        for key, writer in self._arrays.items():
            writer.trim(self.attributes.rows(key))

    def consolidate(self) -> None:
        """Put a copy of all metadata into the root, so that opening reads one file."""
        self._write_root(self.attributes, {CONSOLIDATED: consolidated(self.path)})

    def _write_root(self, attributes: TraceAttributes, metadata: dict[str, Any]) -> None:
        own = {ATTRIBUTES_KEY: attributes.model_dump(mode="json")}
        root = {"attributes": self._others | own, "zarr_format": 3, **metadata}
        replace(self._store, METADATA_FILE, [sealed(root | {"node_type": "group"})])

    def read_step(self, kind: Kind, row: int) -> int:
        """Return the step of one row of the statistics of a kind."""
        array = self._root[f"{STATISTICS}/{kind}/{STEP}"]
        return int(np.asarray(array[row]))  # type: ignore[index]

    def write_static(self, spec: ArraySpec, values: npt.NDArray[Any]) -> None:
        """Write an array that has no step dimension."""
        array = self._find(spec.key)
        if array is None:
            array = self._create(
                spec.key,
                shape=spec.shape,
                dtype=spec.dtype,
                fill_value=fill_value(spec.dtype),
                dimension_names=spec.dims,
                attributes=spec.attributes,
                **encoding(spec, self.attributes.policy.profile, 1).keywords(),
            )
        ArrayWriter(self._root.store, spec.key, array).write_static(values)

    def array(self, spec: ArraySpec, start: int, rows: int) -> ArrayWriter:
        """Return what writes rows of `spec`, with room for `rows` of them from `start` on."""

        def create() -> zarr.Array[Any]:
            profile, shard_steps = self.attributes.policy.profile, self.attributes.shard_steps
            return self._create(
                spec.key,
                shape=(_ROOM * shard_steps, *spec.shape),
                dtype=spec.dtype,
                fill_value=fill_value(spec.dtype),
                dimension_names=(STEP, *spec.dims),
                attributes=spec.attributes,
                **encoding(spec, profile, shard_steps).keywords(),
            )

        return self._prepare(spec.key, start, rows, spec.shape, create)

    def write_steps(self, kind: Kind, start: int, steps: list[int]) -> None:
        """Write the step coordinate of a kind."""
        self._write_steps(kind, start, steps)

    def write_statistics(
        self,
        kind: Kind,
        tensors: tuple[str, ...],
        start: int,
        steps: list[int],
        values: npt.NDArray[np.float64],
    ) -> None:
        """Write rows of a kind's statistics, `values` (step, tensor, statistic)."""
        group = f"{STATISTICS}/{kind}"
        key = f"{group}/{STATISTICS_VALUES}"
        row_shape = (len(tensors), len(STATISTIC_NAMES))

        def create() -> zarr.Array[Any]:
            return self._create(
                key,
                shape=(STATISTICS_CHUNK, *row_shape),
                chunks=(STATISTICS_CHUNK, max(1, len(tensors)), len(STATISTIC_NAMES)),
                dtype="float64",
                fill_value=float("nan"),
                dimension_names=(STEP, TENSOR, STATISTIC),
                attributes={"tensors": list(tensors), "statistics": list(STATISTIC_NAMES)},
                compressors=_COMPRESSORS,
            )

        array = self._prepare(key, start, len(steps), row_shape, create)
        if list(tensors) != array.attributes["tensors"]:
            array.describe({"tensors": list(tensors)})
        array.write(start, values)
        self._write_steps(group, start, steps)

    def _write_steps(self, group: str, start: int, steps: list[int]) -> None:
        key = f"{group}/{STEP}"

        def create() -> zarr.Array[Any]:
            return self._create(
                key,
                shape=(STEP_CHUNK,),
                chunks=(STEP_CHUNK,),
                dtype="int64",
                fill_value=-1,
                dimension_names=(STEP,),
                attributes={"long_name": "optimizer step, counted from 0"},
                compressors=_COMPRESSORS,
            )

        array = self._prepare(key, start, len(steps), (), create)
        array.write(start, np.asarray(steps, dtype=np.int64))

    def _prepare(
        self,
        key: str,
        start: int,
        rows: int,
        row_shape: tuple[int, ...],
        create: Callable[[], zarr.Array[Any]],
    ) -> ArrayWriter:
        writer = self._arrays.get(key)
        if writer is not None:
            writer.make_room(start + rows, row_shape, start)
            return writer
        array = self._find(key)
        writer = ArrayWriter(self._root.store, key, create() if array is None else array)
        writer.make_room(start + rows, row_shape, start)
        if start:
            writer.fill_up(start)
        self._arrays[key] = writer
        return writer

    def _create(self, key: str, **keywords: Any) -> zarr.Array[Any]:
        self._require_groups(key)
        with quiet():
            return self._root.create_array(key, **keywords)

    def _require_groups(self, key: str) -> None:
        """Make the groups above an array, from the root down, before the array itself.

        A crash in between then never leaves an array that no listing of groups finds.
        """
        for parent in reversed(PurePosixPath(key).parents[:-1]):
            if str(parent) not in self._groups:
                self._root.require_group(str(parent))
                self._groups.add(str(parent))

    def _find(self, key: str) -> zarr.Array[Any] | None:
        """Return the array at `key` where the store has it."""
        with quiet():
            found = self._root.get(key)
        if isinstance(found, zarr.Group):
            msg = f"{self.path}: '{key}' is a group where an array is declared"
            raise TraceError(msg)
        return found
