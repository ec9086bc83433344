"""Writing rows into a store, and committing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from steptrace_schema.encoding.profiles import coordinates, encoding
from steptrace_schema.errors import TraceError
from steptrace_schema.format.consolidation import CONSOLIDATED, consolidated
from steptrace_schema.format.json_text import parse_json
from steptrace_schema.format.root_checksum import sealed
from steptrace_schema.names import (
    ATTRIBUTES_KEY,
    DIGESTS,
    KEEP_BITS,
    METADATA_FILE,
    STATISTIC,
    STATISTIC_NAMES,
    STATISTICS,
    STATISTICS_VALUES,
    STEP,
    TENSOR,
    Kind,
)
from steptrace_schema.storage.contents import file_sizes, has_root, read_file
from steptrace_schema.storage.files import files_of
from steptrace_schema.storage.limited_files import LimitedFiles, Room
from steptrace_schema.storage.removal import sweep
from steptrace_schema.store.array_writer import ROOM, ArrayWriter
from steptrace_schema.store.node_metadata import array_metadata
from steptrace_schema.store.nodes import Nodes, read_metadata
from steptrace_schema.store.opening import read_attributes
from steptrace_schema.store.stored_array import read_arrays

if TYPE_CHECKING:
    from collections.abc import Callable

    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_schema.format.layout import ArraySpec
    from steptrace_schema.storage.location import Location

STEP_CHUNK: Final = 1024
_STATISTICS_CHUNK: Final = 256
_STATISTICS_BYTES: Final = 64 * 2**20


def statistics_chunk(tensors: int) -> int:
    """Return how many rows a chunk of the statistics of so many tensors has.

    Examples
    --------
    >>> statistics_chunk(100), statistics_chunk(10_000)
    (256, 32)
    """
    rows, row = _STATISTICS_CHUNK, 8 * len(STATISTIC_NAMES) * max(1, tensors)
    while rows > 1 and rows * row > _STATISTICS_BYTES:
        rows //= 2
    return rows


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
            root = parse_json(read_file(path, METADATA_FILE))
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

    def is_new(self, kind: Kind, path: str) -> bool:
        """Whether the store does not have an array yet, which begins with the next rows."""
        return f"{kind}/{path}" not in self._nodes.metadata

    def keep_bits(self, key: str) -> int | None:
        """Return how many bits of the mantissa an array keeps, None for all."""
        found = self._nodes.metadata.get(key, {}).get("attributes", {}).get(KEEP_BITS)
        return found if isinstance(found, int) else None

    def read_steps(self, kind: Kind, rows: int) -> tuple[int, ...]:
        """Return the steps of the first rows of a kind."""
        array = self._found(f"{kind}/{STEP}")
        return tuple(int(array.read_row(row)) for row in range(rows))

    def read_step(self, kind: Kind, row: int) -> int:
        """Return the step of one row of the statistics of a kind."""
        return int(self._found(f"{STATISTICS}/{kind}/{STEP}").read_row(row))

    def read_digests(
        self, kind: Kind
    ) -> tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
        """Return the digests of a kind's tensors, None where the store has none.

        Returns
        -------
        tuple
            Paths of the tensors; the recorded steps; the digests, dims (step, tensor).
        """
        group = f"{STATISTICS}/{kind}"
        keys = {name: f"{group}/{name}" for name in (STATISTICS_VALUES, DIGESTS, STEP)}
        known = self._nodes.metadata
        if not all(key in known for key in keys.values()):
            return None
        found = read_arrays(self.path, {key: known[key] for key in keys.values()})
        tensors = found[keys[STATISTICS_VALUES]].attributes.get("tensors")
        rows = self.attributes.rows(keys[STEP])
        if not isinstance(tensors, list):
            return None
        digests, steps = (found[keys[name]].read_rows(rows) for name in (DIGESTS, STEP))
        return [str(path) for path in tensors], steps, digests

    def write_static(self, spec: ArraySpec, values: npt.NDArray[Any]) -> None:
        """Write an array that has no step dimension."""
        coded = encoding(spec, self.attributes.policy.profile, 1)

        def metadata() -> dict[str, Any]:
            return array_metadata(spec.shape, spec.dtype, spec.dims, coded, spec.attributes)

        self._made(spec.key, metadata).write_static(values)

    def write_whole(self, spec: ArraySpec, values: npt.NDArray[Any]) -> None:
        """Write an array that has no step dimension, in place of what has its name."""
        coded = encoding(spec, self.attributes.policy.profile, 1)
        metadata = array_metadata(spec.shape, spec.dtype, spec.dims, coded, spec.attributes)
        self._nodes.create(spec.key, metadata)
        self._found(spec.key).write_static(values)

    def array(self, spec: ArraySpec, start: int, rows: int) -> ArrayWriter:
        """Return what writes rows of `spec`, with room for `rows` of them from `start` on."""

        def metadata() -> dict[str, Any]:
            shard_steps = self.attributes.shard_steps
            shape = (ROOM * shard_steps, *spec.shape)
            coded = encoding(spec, self.attributes.policy.profile, shard_steps)
            dims = (STEP, *spec.dims)
            return array_metadata(shape, spec.dtype, dims, coded, spec.attributes)

        return self._prepare(spec.key, start, rows, spec.shape, spec.dtype, metadata)

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
            rows = statistics_chunk(len(tensors))
            coded = coordinates((rows, max(1, len(tensors)), len(STATISTIC_NAMES)))
            attributes = {"tensors": list(tensors), "statistics": list(STATISTIC_NAMES)}
            dims = (STEP, TENSOR, STATISTIC)
            shape = (rows, *row_shape)
            return array_metadata(shape, "float64", dims, coded, attributes)

        array = self._prepare(key, start, len(steps), row_shape, "float64", metadata)
        if list(tensors) != array.attributes.get("tensors"):
            array.describe({"tensors": list(tensors)})
        array.write(start, values)
        self._write_steps(group, start, steps)

    def write_digests(self, kind: Kind, start: int, digests: npt.NDArray[np.int64]) -> None:
        """Write rows of the digests beside a kind's statistics, dims (step, tensor)."""
        rows, tensors = digests.shape

        def metadata() -> dict[str, Any]:
            chunk = statistics_chunk(tensors)
            coded = coordinates((chunk, max(1, tensors)))
            attributes = {"long_name": "xxh3-64 of each tensor, read as a signed integer"}
            return array_metadata((chunk, tensors), "int64", (STEP, TENSOR), coded, attributes)

        key = f"{STATISTICS}/{kind}/{DIGESTS}"
        self._prepare(key, start, rows, (tensors,), "int64", metadata).write(start, digests)

    def _write_steps(self, group: str, start: int, steps: list[int]) -> None:
        key = f"{group}/{STEP}"

        def metadata() -> dict[str, Any]:
            coded = coordinates((STEP_CHUNK,))
            attributes = {"long_name": "optimizer step, counted from 0"}
            return array_metadata((STEP_CHUNK,), "int64", (STEP,), coded, attributes)

        array = self._prepare(key, start, len(steps), (), "int64", metadata)
        array.write(start, np.asarray(steps, dtype=np.int64))

    def _prepare(
        self,
        key: str,
        start: int,
        rows: int,
        row_shape: tuple[int, ...],
        dtype: str,
        metadata: Callable[[], dict[str, Any]],
    ) -> ArrayWriter:
        writer = self._arrays.get(key)
        if writer is not None:
            writer.make_room(start + rows, row_shape, start)
            return writer
        writer = self._made(key, metadata)
        writer.refuse_other(dtype, len(row_shape))
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
