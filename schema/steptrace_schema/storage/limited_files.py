"""Files of a store that refuses to grow beyond a number of bytes."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from steptrace_schema.errors import DiskLimitError
from steptrace_schema.names import METADATA_FILE
from steptrace_schema.storage.files import Files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from typing_extensions import Buffer


class Room:
    """The bytes that a store takes, file by file, and the most that it may take.

    Parameters
    ----------
    limit
        The most bytes, at every moment.
    sizes
        Bytes of the files that are there, by key.
    """

    def __init__(self, limit: int, sizes: Mapping[str, int]) -> None:
        self.limit = limit
        self._sizes = dict(sizes)
        self._used = sum(sizes.values())
        self._metadata = sum(n for key, n in sizes.items() if _is_metadata(key))
        self._largest = max(sizes.values(), default=0)
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """Bytes that may still be written."""
        return self.limit - self._used

    @property
    def largest(self) -> int:
        """Bytes of the largest file, which may be there twice while it is replaced."""
        return self._largest

    @property
    def metadata(self) -> int:
        """Bytes of the metadata of all groups and arrays."""
        return self._metadata

    def size(self, key: str) -> int:
        """Return the bytes of the file at `key`, 0 if there is none."""
        return self._sizes.get(key, 0)

    @contextlib.contextmanager
    def taking(self, key: str, size: int) -> Iterator[None]:
        """Take the room for a file while it is written, beside an old one of its name.

        Parameters
        ----------
        key, size
            The file's name, and its bytes.

        Raises
        ------
        DiskLimitError
            If there is no room for it; then nothing must be written.
        """
        with self._lock:
            old = self._sizes.get(key, 0)
            if size > self.left:
                msg = f"'{key}' takes {size} bytes more, and {self.left} are left"
                raise DiskLimitError(msg)
            self._used += size
        yield
        with self._lock:
            self._used -= old
            self._metadata += size - old if _is_metadata(key) else 0
            self._sizes[key] = size
            self._largest = max(self._largest, size)


def _is_metadata(key: str) -> bool:
    return key == METADATA_FILE or key.endswith(f"/{METADATA_FILE}")


class LimitedFiles(Files):
    """Files within whose room every one is.

    Parameters
    ----------
    files
        Where they go.
    room
        What they may take.
    """

    def __init__(self, files: Files, room: Room) -> None:
        self.location = files.location
        self._files = files
        self._room = room

    def put(self, name: str, pieces: Sequence[Buffer]) -> None:
        """Write a file if it has room."""
        with self._room.taking(name, _length(pieces)):
            self._files.put(name, pieces)

    def replace(self, name: str, pieces: Sequence[Buffer]) -> None:
        """Write a file if it has room beside the old one."""
        with self._room.taking(name, _length(pieces)):
            self._files.replace(name, pieces)


def _length(pieces: Sequence[Buffer]) -> int:
    return sum(memoryview(piece).nbytes for piece in pieces)
