"""A store that refuses to grow beyond a number of bytes."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

from zarr.storage import WrapperStore

from steptrace_schema.errors import DiskLimitError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer

METADATA: Final = "zarr.json"


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
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """Bytes that may still be written."""
        return self.limit - self._used

    @property
    def metadata(self) -> int:
        """Bytes of the metadata of all groups and arrays."""
        return self._metadata

    def size(self, key: str) -> int:
        """Return the bytes of the file at `key`, 0 if there is none."""
        return self._sizes.get(key, 0)

    @contextlib.contextmanager
    def taking(self, key: str, size: int, *, beside: bool) -> Iterator[None]:
        """Take the room for a file while it is written.

        Parameters
        ----------
        key, size
            The file's name, and its bytes.
        beside
            Whether an old file of this name is there until the new one is whole.

        Raises
        ------
        DiskLimitError
            If there is no room for it; then nothing must be written.
        """
        with self._lock:
            old = self._sizes.get(key, 0)
            needed = size if beside else size - old
            if needed > self.left:
                msg = f"'{key}' takes {needed} bytes more, and {self.left} are left"
                raise DiskLimitError(msg)
            self._used += needed
        yield
        with self._lock:
            self._used -= old if beside else 0
            self._metadata += size - old if _is_metadata(key) else 0
            self._sizes[key] = size


def _is_metadata(key: str) -> bool:
    return key == METADATA or key.endswith(f"/{METADATA}")


class LimitedStore(WrapperStore["Store"]):
    """A store within whose room every object is.

    Parameters
    ----------
    store
        Where the objects go.
    room
        What they may take.
    """

    def __init__(self, store: Store, room: Room) -> None:
        super().__init__(store)
        self.inner = store
        self.room = room

    def _with_store(self, store: Store) -> LimitedStore:
        return LimitedStore(store, self.room)

    async def set(self, key: str, value: Buffer) -> None:
        """Store an object."""
        with self.room.taking(key, len(value), beside=True):
            await self.inner.set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Store an object unless there is one."""
        if not await self.exists(key):
            await self.set(key, value)
