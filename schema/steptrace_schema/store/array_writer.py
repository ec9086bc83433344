"""Writing the rows of one array."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from steptrace_schema.encoding.codecs import Encoding
from steptrace_schema.encoding.expansion import ONCE, refuse_at_once
from steptrace_schema.encoding.read_region import overlaps, read_region
from steptrace_schema.encoding.shards import objects
from steptrace_schema.errors import DamagedTraceError, TraceError
from steptrace_schema.format.layout import fill_value
from steptrace_schema.store.node_metadata import object_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from steptrace_schema.encoding.objects import Position, Read
    from steptrace_schema.store.nodes import Nodes


ROOM: Final = 32
"""Stored objects along the step axis that a new array has room for.

For more, the metadata of all arrays are written again, at a millisecond each.
"""


_LARGEST_TAIL: Final = 4 * 2**20


_MOST_FILLED: Final = 200_000
"""Stored objects of an array that came late; a trace may claim any number of rows before it."""


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

    def refuse_other(self, dtype: str, rank: int) -> None:
        """Make sure that the array is one of rows of this type and rank.

        Raises
        ------
        TraceError
            If it is not.
        """
        if self._dtype != np.dtype(dtype) or len(self._shape) != rank + 1:
            msg = (
                f"{self._files.location}: array '{self._key}' is {self._dtype} of "
                f"{len(self._shape)} dimensions, where {dtype} of {rank + 1} is to be recorded; "
                "record into another trace"
            )
            raise TraceError(msg)

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
        count = math.prod(place + 1 for place in last)
        if count > _MOST_FILLED:
            msg = (
                f"{self._files.location}: array '{self._key}' comes after {rows} rows, and would "
                f"get {count} files for these; record into another trace"
            )
            raise TraceError(msg)
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
        claimed = math.prod(self._shape[1:]) * (end - begin) * self._dtype.itemsize
        try:
            if claimed > ONCE:
                places = (position for position, _, _ in overlaps(region, self._unit))
                sizes = (self._files.size(self._object_name(place)) for place in places)
                refuse_at_once(claimed, sum(sizes))
            return read_region(self._encoding, region, self._dtype, self._fill, opened)
        except (FileNotFoundError, ValueError) as error:
            msg = (
                f"{self._files.location}: array '{self._key}' cannot be decoded in rows {begin} to "
                f"{end - 1} ({error}), and the next rows depend on these; move the trace away, "
                "and the remaining steps are recorded into a new one"
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
