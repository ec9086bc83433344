"""Bytes that rows will add to a store, at most, before they are encoded: as many as raw.

What is really written is less, and the store refuses what is more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_schema.encoding.profiles import encoding
from steptrace_schema.names import METADATA_FILE, STATISTIC_NAMES

if TYPE_CHECKING:
    from steptrace_schema.format.layout import ArraySpec
    from steptrace_schema.format.policy import Profile
    from steptrace_schema.storage.limited_files import Room

CONSOLIDATED: Final = 1.5
"""How many times the bytes of all metadata the copy of them in the root takes."""
_METADATA_BYTES: Final = 5000
"""Of one array and the groups above it, and of their copy in the root."""
_CHUNK_OVERHEAD: Final = 80
"""Checksum, header and place in the index of a chunk."""
_NOT_SMALLER: Final = 65 / 64
"""What codecs make of numbers that they cannot compress."""
_DESCRIBED_BYTES: Final = 8 * (len(STATISTIC_NAMES) + 1)


class Estimate:
    """What the arrays of one trace take.

    Parameters
    ----------
    room
        What is there already.
    profile, shard_steps
        How arrays are encoded.
    """

    def __init__(self, room: Room, profile: Profile, shard_steps: int) -> None:
        self._room = room
        self._profile = profile
        self._shard_steps = shard_steps
        self._chunks: dict[str, tuple[int, int]] = {}

    def rows(self, spec: ArraySpec, start: int, rows: int) -> int:
        """Return what `rows` more rows add; where they end in a chunk, all of it."""
        if not rows:
            return 0
        steps, chunk = self._chunk(spec)
        new = -(-(start + rows) // steps) - start // steps
        return self._metadata(spec.key) + max(0, new * chunk - start % steps * (chunk // steps))

    def last_object(self, spec: ArraySpec, end: int) -> int:
        """Return the bytes of the shards that row `end` is in, which is the last one."""
        steps, chunk = self._chunk(spec)
        return -(-(end % self._shard_steps + 1) // steps) * chunk

    def statistics(self, kind: str, names: list[str], rows: int) -> int:
        """Return what the statistics and steps of `rows` more rows of tensors add."""
        metadata = 3 * self._metadata(f"statistics/{kind}/values")
        return metadata + sum(map(len, names)) + rows * (8 + _DESCRIBED_BYTES * len(names))

    def static(self, spec: ArraySpec) -> int:
        """Return what an array without steps adds."""
        size = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
        return self._metadata(spec.key) + size + _CHUNK_OVERHEAD

    def _metadata(self, key: str) -> int:
        return 0 if self._room.size(f"{key}/{METADATA_FILE}") else _METADATA_BYTES

    def _chunk(self, spec: ArraySpec) -> tuple[int, int]:
        """Return the steps of a chunk, and the bytes of all chunks of so many rows."""
        if spec.key not in self._chunks:
            steps, *extents = encoding(spec, self._profile, self._shard_steps).chunks
            across = math.prod(-(-n // size) for n, size in zip(spec.shape, extents, strict=True))
            whole = steps * math.prod(extents) * np.dtype(spec.dtype).itemsize
            size = math.ceil(whole * _NOT_SMALLER) + _CHUNK_OVERHEAD
            self._chunks[spec.key] = steps, across * size
        return self._chunks[spec.key]
