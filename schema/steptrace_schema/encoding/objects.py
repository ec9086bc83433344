"""The stored objects of a trace, opened one at a time, wherever they are."""

from __future__ import annotations

import abc
import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import numpy as np

from steptrace_schema.encoding.scratch import Scratch
from steptrace_schema.storage.contents import file_sizes
from steptrace_schema.storage.location import is_packed
from steptrace_schema.storage.names import inside, open_to_read
from steptrace_schema.storage.object_store import Remote, object_store_errors
from steptrace_schema.storage.packed import Archive
from steptrace_schema.storage.posix import read_exactly

if TYPE_CHECKING:
    from pathlib import Path

    from steptrace_schema.storage.location import Location

WHOLE: Final = (0, None)
"""The range that is a whole object."""

_SCRATCH: Final = Scratch()

Position: TypeAlias = tuple[int, ...]
"""Which object of the array's grid, or which chunk of an object."""

Range: TypeAlias = tuple[int, "int | None"]
"""From one byte of an object to another, None for its end; negative numbers count from there."""

Content: TypeAlias = "bytes | memoryview"
"""A part of an object; nothing may refer to it when the object is closed."""

Read: TypeAlias = Callable[[Sequence[Range]], Iterable[Content]]
"""Returns the content of ranges of an object, in their order; less where it ends before."""

Objects: TypeAlias = Callable[[Position], AbstractContextManager[Read]]
"""Opens a stored object of one array."""


class Source(abc.ABC):
    """Where the stored objects of a trace are read from."""

    @abc.abstractmethod
    def size(self, name: str) -> int:
        """Return the bytes of an object, 0 where there is none."""

    @abc.abstractmethod
    def opened(self, name: str) -> AbstractContextManager[Read]:
        """Open an object. One that is not there is empty, or raises."""


@final
class FolderSource(Source):
    """Files of a folder. An open object stays what it was when a writer replaces it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def size(self, name: str) -> int:
        """Return the bytes of a file, 0 where there is none."""
        try:
            return (self._folder / name).stat().st_size
        except (OSError, ValueError):
            return 0

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Read]:
        """Open a file."""
        descriptor = open_to_read(self._folder / inside(self._folder, name))
        with os.fdopen(descriptor, "rb", buffering=0) as file, contextlib.ExitStack() as lent:

            def read(ranges: Sequence[Range]) -> Iterator[Content]:
                # No more than there is, whatever the index of a shard claims.
                size = os.fstat(descriptor).st_size
                for part in ranges:
                    start, stop = part
                    if part == WHOLE:
                        memory = lent.enter_context(_SCRATCH.array((size,), np.uint8))
                        read_exactly(descriptor, 0, memory.data)
                        yield memory.data
                    else:
                        begin = max(0, size + start) if start < 0 else min(start, size)
                        file.seek(begin)
                        yield file.read((size if stop is None else min(stop, size)) - begin)

            yield read


@final
class ArchiveSource(Source):
    """Members of a packed trace; any part of one is read from its beginning."""

    def __init__(self, path: Path) -> None:
        self._archive = Archive(path)
        self._sizes = self._archive.sizes

    def size(self, name: str) -> int:
        """Return the stored bytes of a member, 0 where there is none."""
        return self._sizes.get(name, 0)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Read]:
        """Read a member."""
        content = self._archive.read(name) if name in self._sizes else b""
        yield lambda ranges: (content[start:stop] for start, stop in ranges)


@final
class RemoteSource(Source):
    """Objects of an object store.

    Parameters
    ----------
    location
        The address.
    objects
        What is there; that of the address if not given.
    """

    def __init__(self, location: Remote, objects: Any = None) -> None:
        self._location = location
        self._objects = objects

    @functools.cached_property
    def _sizes(self) -> dict[str, int]:
        return file_sizes(self._location)  # a listing only if something is read

    def size(self, name: str) -> int:
        """Return the bytes of an object, 0 where there is none."""
        return self._sizes.get(name, 0)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Read]:
        """Read an object, which may be replaced between two ranges."""
        from obstore import get, get_ranges

        objects = self._location.objects if self._objects is None else self._objects

        def one(start: int, stop: int | None) -> bytes:
            options: Any = {}
            if (start, stop) != WHOLE:
                part: Any = {"suffix": -start} if start < 0 else {"offset": start}
                options = {"range": part if stop is None else (start, stop)}
            return bytes(get(objects, name, options=options).bytes())

        def read(ranges: Sequence[Range]) -> list[Content]:
            ends = [stop for _, stop in ranges if stop is not None]
            with object_store_errors(self._location):
                if len(ends) == len(ranges) > 1:
                    starts = [start for start, _ in ranges]
                    return [bytes(p) for p in get_ranges(objects, name, starts=starts, ends=ends)]
                return [one(*part) for part in ranges]

        yield read


def source_of(location: Location) -> Source:
    """Return what reads the stored objects of the trace at `location`.

    Raises
    ------
    zipfile.BadZipFile
        If it is packed, and damaged.
    """
    if isinstance(location, Remote):
        return RemoteSource(location)
    return ArchiveSource(location) if is_packed(location) else FolderSource(location)
