"""Bytes that a move will add to a store, at most, before it is made.

What is really written is known only once it is encoded. Chunks that are full are counted without
compression; what fills up the others is the same value over and over.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_schema.encoding.profiles import encoding
from steptrace_schema.names import (
    DIGESTS,
    METADATA_FILE,
    STATISTIC_NAMES,
    STATISTICS,
    STATISTICS_VALUES,
    STEP,
)
from steptrace_schema.store.writer import STEP_CHUNK, statistics_chunk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from steptrace_schema.encoding.codecs import Encoding
    from steptrace_schema.format.layout import ArraySpec
    from steptrace_schema.format.policy import Profile
    from steptrace_schema.storage.limited_files import Room

_METADATA_BYTES: Final = 2000
"""Of one array, and of the groups above it."""
CONSOLIDATED: Final = 1.5
"""How many times the bytes of all metadata the copy of them in the root takes."""
_CHUNK_OVERHEAD: Final = 64
_RUN_BYTES: Final = 8
"""What a run of equal bytes takes where a chunk is filled up."""


@dataclasses.dataclass(frozen=True)
class Written:
    """A file that a move writes.

    Attributes
    ----------
    new
        Its bytes, at most.
    old
        Bytes of the file of its name that is there before, and until it is whole.
    """

    new: int
    old: int = 0


def added(files: Iterable[Written], workers: int) -> int:
    """Return the bytes that writing `files`, so many at a time, adds at its worst moment."""
    listed = list(files)
    replaced = sorted((file.old for file in listed), reverse=True)[:workers]
    return sum(max(0, file.new - file.old) for file in listed) + sum(replaced)


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
        self._encodings: dict[str, Encoding] = {}

    def static(self, spec: ArraySpec) -> Iterator[Written]:
        """Yield the files of an array without steps."""
        yield from self._metadata(spec.key)
        yield Written(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize + _CHUNK_OVERHEAD)

    def rows(self, spec: ArraySpec, start: int, rows: int) -> Iterator[Written]:
        """Yield the files of `rows` more rows of an array from row `start` on."""
        if not rows:
            return
        coded = self._encodings.get(spec.key)
        if coded is None:
            coded = self._encodings[spec.key] = encoding(spec, self._profile, self._shard_steps)
        unit = coded.shards or coded.chunks
        itemsize = np.dtype(spec.dtype).itemsize
        is_new = not self._room.size(f"{spec.key}/{METADATA_FILE}")
        yield from self._metadata(spec.key)
        grid = [range(-(-n // size)) for n, size in zip(spec.shape, unit[1:], strict=True)]
        first = 0 if is_new else start // unit[0]
        for position in itertools.product(range(first, -(-(start + rows) // unit[0])), *grid):
            count = min(unit[0], start + rows - position[0] * unit[0])
            real = count - (min(count, max(0, start - position[0] * unit[0])) if is_new else 0)
            shape = [
                min(size, n - i * size)
                for i, size, n in zip(position[1:], unit[1:], spec.shape, strict=True)
            ]
            new = _object_bytes(coded, count, real, shape, itemsize)
            yield Written(new, self._stored(spec.key, position))

    def again(self, spec: ArraySpec, row: int) -> Iterator[Written]:
        """Yield the files that a later move replaces to add `row`, each beside the new one."""
        for file in self.rows(spec, row, 1):
            yield Written(file.new, file.new)

    def statistics(self, kind: str, start: int, rows: int, names: list[str]) -> Iterator[Written]:
        """Yield the files of `rows` more rows of the statistics of tensors."""
        if not rows or not names:
            return
        key = f"{STATISTICS}/{kind}/{STATISTICS_VALUES}"
        yield from self._metadata(key, sum(map(len, names)) + 16 * len(names))
        row = len(names) * len(STATISTIC_NAMES) * 8
        for position, count in _chunks(start, rows, statistics_chunk(len(names))):
            sizes = (self._stored(key, (position, i, 0)) for i in itertools.count())
            old = sum(itertools.takewhile(bool, sizes))
            yield Written(count * row + count * row // 32 + 16 * _CHUNK_OVERHEAD, old)
        digests = f"{STATISTICS}/{kind}/{DIGESTS}"
        yield from self._metadata(digests)
        for position, count in _chunks(start, rows, statistics_chunk(len(names))):
            old = self._stored(digests, (position, 0))
            yield Written(8 * count * len(names) + _CHUNK_OVERHEAD, old)
        yield from self.steps(f"{STATISTICS}/{kind}", start, rows)

    def steps(self, group: str, start: int, rows: int) -> Iterator[Written]:
        """Yield the files of `rows` more steps of a group."""
        if not rows:
            return
        key = f"{group}/{STEP}"
        yield from self._metadata(key)
        for position, count in _chunks(start, rows, STEP_CHUNK):
            old = self._stored(key, (position,))
            yield Written(8 * count + 4 * _CHUNK_OVERHEAD, old)

    def _stored(self, key: str, position: tuple[int, ...]) -> int:
        """Return the bytes of a stored object, under its name or that of earlier versions."""
        return sum(
            self._room.size(f"{key}/{separator.join(map(str, ('c', *position)))}")
            for separator in "./"
        )

    def _metadata(self, key: str, more: int = 0) -> Iterator[Written]:
        """Yield the metadata of an array, with the room for their copy in the root."""
        old = self._room.size(f"{key}/{METADATA_FILE}")
        if old:
            yield Written(old + more, old)
        else:
            yield Written(int((1 + CONSOLIDATED) * (_METADATA_BYTES + more)))


def _chunks(start: int, rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the chunks that rows are in, and how many rows each then has."""
    for position in range(start // size, -(-(start + rows) // size)):
        yield position, min(size, start + rows - position * size)


def _object_bytes(coded: Encoding, count: int, real: int, shape: list[int], itemsize: int) -> int:
    """Return the bytes of a stored object with `count` rows, of which `real` hold data."""
    steps, *extents = coded.chunks
    across = math.prod(-(-n // size) for n, size in zip(shape, extents, strict=True))
    row = math.prod(extents) * itemsize
    chunks = across * -(-count // steps)
    whole = chunks * steps * row
    if coded.blosc is not None or coded.pcodec is not None:
        whole = min(whole + whole // 64, across * row * (real + _RUN_BYTES * -(-count // steps)))
    units = coded.shards or coded.chunks
    index = math.prod(-(-n // size) for n, size in zip(units, coded.chunks, strict=True))
    return whole + chunks * _CHUNK_OVERHEAD + 16 * index
