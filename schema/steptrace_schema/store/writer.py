"""Writing rows into a store, and committing them."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from steptrace_schema.encoding.codecs import Encoding, coordinates, encoding
from steptrace_schema.encoding.read_region import read_region
from steptrace_schema.encoding.shards import objects
from steptrace_schema.errors import DamagedTraceError, TraceError
from steptrace_schema.format.consolidation import CONSOLIDATED, consolidated
from steptrace_schema.format.layout import ArraySpec, fill_value
from steptrace_schema.format.root_checksum import sealed
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
from steptrace_schema.storage.files import files_of
from steptrace_schema.storage.limited_files import LimitedFiles, Room
from steptrace_schema.storage.location import (
    METADATA_FILE,
    Location,
    file_sizes,
    has_root,
    read_file,
    sweep,
)
from steptrace_schema.store.node_metadata import array_metadata, object_name
from steptrace_schema.store.nodes import Nodes, read_metadata
from steptrace_schema.store.opening import read_attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from steptrace_schema.encoding.read_region import Position, Read
    from steptrace_schema.format.attributes import TraceAttributes

STEP_CHUNK: Final = 1024
STATISTICS_CHUNK: Final = 256
_ROOM: Final = 4  # stored objects along the step axis that a new array has room for
_LARGEST_TAIL: Final = 4 * 2**20


class ArrayWriter:
    """Writes rows of one array of a store.

    Rows go straight from memory into stored objects: Zarr's own writing takes milliseconds for each
    array, which for the many small ones of a trace is longer than everything else together.

    Parameters
    ----------
    nodes, key
        Where the array is, which has been made.
    """

    def __init__(self, nodes: Nodes, key: str) -> None:
        self._nodes = nodes
        self._files = nodes.files
        self._key = key
        metadata = nodes.metadata[key]
        self._encoding = Encoding.stated(metadata, key)
        self._dtype = np.dtype(metadata["data_type"])
        self._fill = fill_value(metadata["data_type"])
        self._tail: tuple[int, npt.NDArray[Any]] | None = None

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the array."""
        return dict(self._nodes.metadata[self._key]["attributes"])

    def describe(self, attributes: dict[str, Any]) -> None:
        """Add `attributes` to those of the array."""
        self._nodes.update(self._key, attributes=self.attributes | attributes)

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
        count, *before = self._shape
        if row_shape != tuple(before):
            self._fill_margin(recorded, row_shape)
            self._tail = None
        if count < rows:
            count = -(-max(rows, 2 * count) // self._unit[0]) * self._unit[0]
        # Last, so that no recorded row of the array's shape lacks a chunk, even after a crash.
        self._resize((count, *row_shape))

    def fill_up(self, rows: int) -> None:
        """Store fill values for the first `rows` rows, if the array came later than those."""
        unit, row_shape = self._unit, self._shape[1:]
        last = [
            -(-extent // size) - 1 for extent, size in zip((rows, *row_shape), unit, strict=True)
        ]
        with contextlib.suppress(FileNotFoundError):
            self._files.read(self._object_name(last), 0, 1)
            return
        for begin in range(0, rows, unit[0]):
            count = min(unit[0], rows - begin)
            fill = np.full((count, *row_shape), self._fill, self._dtype)
            for position, pieces in objects(self._encoding, begin, fill, self._fill):
                self._files.replace(self._object_name(position), pieces)

    def write(self, start: int, rows: npt.NDArray[Any]) -> None:
        """Write whole `rows` (step, ...) from row `start` on, for which there must be room."""
        unit = self._unit[0]
        begin = start - start % unit
        if begin < start:
            rows = np.concatenate([self._rows_before(begin, start), rows])
        for position, pieces in objects(self._encoding, begin, rows, self._fill):
            # Only an object with earlier rows in it holds data already.
            is_old = begin < start and begin // unit == position[0]
            store = self._files.replace if is_old else self._files.put
            store(self._object_name(position), pieces)
        end = begin + len(rows)
        tail = rows[len(rows) - end % unit :]
        self._tail = (end, tail.copy()) if tail.nbytes <= _LARGEST_TAIL else None

    def write_static(self, values: npt.NDArray[Any]) -> None:
        """Write an array that has no step dimension."""
        for position, pieces in objects(self._encoding, 0, values, self._fill):
            self._files.put(self._object_name(position), pieces)

    def read_row(self, row: int) -> npt.NDArray[Any]:
        """Return one row, as it is stored."""
        values: npt.NDArray[Any] = self._read(row, row + 1)[0]
        return values

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(self._nodes.metadata[self._key]["shape"])

    @property
    def _unit(self) -> tuple[int, ...]:
        return self._encoding.shards or self._encoding.chunks

    def _rows_before(self, begin: int, end: int) -> npt.NDArray[Any]:
        """Return the rows that share a stored object with row `end`."""
        if self._tail is not None and self._tail[0] == end and len(self._tail[1]) == end - begin:
            return self._tail[1]
        return self._read(begin, end)

    def _read(self, begin: int, end: int) -> npt.NDArray[Any]:
        """Return recorded rows."""

        @contextlib.contextmanager
        def opened(position: Position) -> Iterator[Read]:  # nobody else replaces it
            name = self._object_name(position)
            yield lambda ranges: (self._files.read(name, *part) for part in ranges)

        region = (slice(begin, end), *(slice(0, extent) for extent in self._shape[1:]))
        try:
            return read_region(self._encoding, region, self._dtype, self._fill, opened)
        except (FileNotFoundError, ValueError) as error:
            msg = (
                f"{self._files.location}: array '{self._key}' cannot be decoded in rows {begin} to "
                f"{end - 1} ({error}), and the next rows follow from these; move the trace away, "
                "and what is left is recorded into another one"
            )
            raise DamagedTraceError(msg) from error

    def _fill_margin(self, rows: int, row_shape: tuple[int, ...]) -> None:
        """Store the first `rows` rows with fill values where rows of `row_shape` have more."""
        before = self._shape[1:]
        for begin in range(0, rows, self._unit[0]):
            stored = self._read(begin, min(rows, begin + self._unit[0]))
            larger = np.full((len(stored), *row_shape), self._fill, self._dtype)
            common = tuple(slice(0, min(n)) for n in zip(before, row_shape, strict=True))
            larger[:, *common] = stored[:, *common]
            for position, pieces in objects(self._encoding, begin, larger, self._fill):
                parts = zip(position[1:], self._unit[1:], before, strict=True)
                if any((place + 1) * size > extent for place, size, extent in parts):
                    self._files.replace(self._object_name(position), pieces)

    def _object_name(self, position: Iterable[int]) -> str:
        return f"{self._key}/{object_name(self._nodes.metadata[self._key], position)}"

    def _resize(self, shape: tuple[int, ...]) -> None:
        if shape != self._shape:
            self._nodes.update(self._key, shape=list(shape))


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
        self._others: dict[str, Any] = {}  # attributes of the root that are not ours
        self.room: Room | None = None
        self._files = files_of(path, attributes.policy.durability)
        if limit is not None:
            sweep(path)
            self.room = Room(limit, file_sizes(path))
            self._files = LimitedFiles(self._files, self.room)
        # A folder without it is what a crash left of a store that was being made.
        if has_root(path):
            self.attributes = read_attributes(path)
            sweep(path)
            root = json.loads(read_file(path, METADATA_FILE))
            self._others = {k: v for k, v in root["attributes"].items() if k != ATTRIBUTES_KEY}
        else:
            self._write_root(attributes, {})
        self._nodes = Nodes(self._files, read_metadata(path))

    def commit(self, attributes: TraceAttributes) -> None:
        """Make `attributes` the root attributes, and with them what they say is recorded."""
        self._write_root(attributes, {})
        self.attributes = attributes

    def trim(self) -> None:
        """Give every array exactly the rows that are recorded."""
        for key, metadata in [*self._nodes.metadata.items()]:
            if (metadata.get("dimension_names") or [None])[0] == STEP:
                shape = [self.attributes.rows(key), *metadata["shape"][1:]]
                if metadata["shape"] != shape:
                    self._nodes.update(key, shape=shape)

    def consolidate(self) -> None:
        """Put a copy of all metadata into the root, so that opening reads one file."""
        self._write_root(self.attributes, {CONSOLIDATED: consolidated(self._nodes.metadata)})

    def _write_root(self, attributes: TraceAttributes, metadata: dict[str, Any]) -> None:
        own = {ATTRIBUTES_KEY: attributes.model_dump(mode="json")}
        root = {"attributes": self._others | own, "zarr_format": 3, **metadata}
        self._files.replace(METADATA_FILE, [sealed(root | {"node_type": "group"})])

    def read_step(self, kind: Kind, row: int) -> int:
        """Return the step of one row of the statistics of a kind."""
        return int(self._found(f"{STATISTICS}/{kind}/{STEP}").read_row(row))

    def write_static(self, spec: ArraySpec, values: npt.NDArray[Any]) -> None:
        """Write an array that has no step dimension."""
        coded = encoding(spec, self.attributes.policy.profile, 1)

        def metadata() -> dict[str, Any]:
            return array_metadata(spec.shape, spec.dtype, spec.dims, coded, spec.attributes)

        self._made(spec.key, metadata).write_static(values)

    def array(self, spec: ArraySpec, start: int, rows: int) -> ArrayWriter:
        """Return what writes rows of `spec`, with room for `rows` of them from `start` on."""

        def metadata() -> dict[str, Any]:
            shard_steps = self.attributes.shard_steps
            shape = (_ROOM * shard_steps, *spec.shape)
            coded = encoding(spec, self.attributes.policy.profile, shard_steps)
            dims = (STEP, *spec.dims)
            return array_metadata(shape, spec.dtype, dims, coded, spec.attributes)

        return self._prepare(spec.key, start, rows, spec.shape, metadata)

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

        def metadata() -> dict[str, Any]:
            coded = coordinates((STATISTICS_CHUNK, max(1, len(tensors)), len(STATISTIC_NAMES)))
            attributes = {"tensors": list(tensors), "statistics": list(STATISTIC_NAMES)}
            dims = (STEP, TENSOR, STATISTIC)
            shape = (STATISTICS_CHUNK, *row_shape)
            return array_metadata(shape, "float64", dims, coded, attributes)

        array = self._prepare(key, start, len(steps), row_shape, metadata)
        if list(tensors) != array.attributes["tensors"]:
            array.describe({"tensors": list(tensors)})
        array.write(start, values)
        self._write_steps(group, start, steps)

    def _write_steps(self, group: str, start: int, steps: list[int]) -> None:
        key = f"{group}/{STEP}"

        def metadata() -> dict[str, Any]:
            coded = coordinates((STEP_CHUNK,))
            attributes = {"long_name": "optimizer step, counted from 0"}
            return array_metadata((STEP_CHUNK,), "int64", (STEP,), coded, attributes)

        array = self._prepare(key, start, len(steps), (), metadata)
        array.write(start, np.asarray(steps, dtype=np.int64))

    def _prepare(
        self,
        key: str,
        start: int,
        rows: int,
        row_shape: tuple[int, ...],
        metadata: Callable[[], dict[str, Any]],
    ) -> ArrayWriter:
        writer = self._arrays.get(key)
        if writer is not None:
            writer.make_room(start + rows, row_shape, start)
            return writer
        writer = self._made(key, metadata)
        writer.make_room(start + rows, row_shape, start)
        if start:
            writer.fill_up(start)
        self._arrays[key] = writer
        return writer

    def _made(self, key: str, metadata: Callable[[], dict[str, Any]]) -> ArrayWriter:
        """Return the writer of an array, which is made where the store does not have it."""
        if key not in self._nodes.metadata:
            self._nodes.create(key, metadata())
        return self._found(key)

    def _found(self, key: str) -> ArrayWriter:
        if self._nodes.metadata[key]["node_type"] != "array":
            msg = f"{self.path}: '{key}' is a group where an array is declared"
            raise TraceError(msg)
        return ArrayWriter(self._nodes, key)
