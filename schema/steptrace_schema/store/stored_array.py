"""The arrays of a store, read directly: zarr-python takes longer for a chunk than to decode it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from steptrace_schema.encoding.array_metadata import ArrayMetadata
from steptrace_schema.encoding.codecs import Encoding
from steptrace_schema.encoding.expansion import Expansion, refuse_at_once
from steptrace_schema.encoding.objects import source_of
from steptrace_schema.encoding.read_region import overlaps, read_region
from steptrace_schema.names import KINDS, STATISTICS
from steptrace_schema.store.opening import read_nodes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    import numpy as np
    import numpy.typing as npt

    from steptrace_schema.encoding.objects import Position, Read, Source
    from steptrace_schema.encoding.read_region import Region
    from steptrace_schema.storage.location import Location


class StoredArray:
    """One array of a store, of which any part can be read.

    Parameters
    ----------
    source
        Where its stored objects are.
    metadata
        What is known of it.
    expansion
        Counts what is decoded, of all arrays of a trace together.
    """

    def __init__(self, source: Source, metadata: ArrayMetadata, expansion: Expansion) -> None:
        self._source = source
        self._expansion = expansion
        self.metadata = metadata

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, as its metadata claim it."""
        return self.metadata.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its element type."""
        return self.metadata.dtype

    @property
    def ndim(self) -> int:
        """Its number of dimensions."""
        return len(self.shape)

    @property
    def attributes(self) -> dict[str, Any]:
        """Its attributes."""
        return self.metadata.attributes

    @property
    def is_of_a_profile(self) -> bool:
        """Whether it is encoded as a profile says, and not by another program."""
        return isinstance(self.metadata.encoding, Encoding)

    def size(self, position: Position) -> int:
        """Return the bytes of a stored object, 0 where there is none."""
        return self._source.size(self.metadata.object_name(position))

    def claimed_objects(self, rows: int | None = None) -> int:
        """Return how many stored objects there must be for the first `rows` rows, or all."""
        shape = self.shape if rows is None else (min(rows, self.shape[0]), *self.shape[1:])
        unit = self.metadata.unit  # an empty axis must not hide a long one
        return math.prod(max(1, -(-n // size)) for n, size in zip(shape, unit, strict=True))

    def read(self, region: Region) -> npt.NDArray[Any]:
        """Read a part of the array.

        Raises
        ------
        ValueError
            If an object that it needs is not there, or cannot be decoded.
        OSError, UnreachableError
            If it cannot be read.
        """
        stored = 0
        for position, _, _ in overlaps(region, self.metadata.unit):
            size = self.size(position)
            if not size:
                msg = f"file {self.metadata.object_name(position)} is missing or empty"
                raise ValueError(msg)
            stored += size
        return self._read(region, stored)

    def read_stored(self, region: Region, stored: int) -> npt.NDArray[Any]:
        """Read a part of the array whose objects are known to be there, with so many bytes."""
        return self._read(region, stored)

    def read_rows(self, rows: int | None = None) -> npt.NDArray[Any]:
        """Read the first `rows` rows, or all. Raises what `read` does."""
        shape = self.shape if rows is None else (min(rows, self.shape[0]), *self.shape[1:])
        return self.read(tuple(slice(0, extent) for extent in shape))

    def _read(self, region: Region, stored: int) -> npt.NDArray[Any]:
        lengths = (p.stop - p.start if isinstance(p, slice) else len(p) for p in region)
        refuse_at_once(math.prod(lengths) * self.dtype.itemsize, stored)
        found = self.metadata
        return read_region(
            found.encoding, region, found.dtype, found.fill_value, self._opened, self._expansion
        )

    def _opened(self, position: Position) -> AbstractContextManager[Read]:
        return self._source.opened(self.metadata.object_name(position))


def read_arrays(
    location: Location, nodes: Mapping[str, Any] | None = None
) -> dict[str, StoredArray]:
    """Return every array of the trace at `location`, by its path.

    Arrays of top-level groups that are of no kind of a trace, and that this program cannot read,
    are left out, as the specification wants it.

    Parameters
    ----------
    location
        The trace.
    nodes
        The metadata of its groups and arrays, where they have been read.

    Raises
    ------
    ValueError
        If the metadata of an array are not such that a trace can have.
    """
    source, expansion = source_of(location), Expansion()
    found = {}
    for key, fields in (read_nodes(location) if nodes is None else nodes).items():
        if fields["node_type"] != "array":
            continue
        try:
            found[key] = StoredArray(source, ArrayMetadata.parse(key, fields), expansion)
        except ValueError as error:
            if key.partition("/")[0] in (*KINDS, STATISTICS):
                msg = f"'{key}': {error}"
                raise ValueError(msg) from error
    return found
