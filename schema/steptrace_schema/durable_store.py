"""A local Zarr store whose objects are on the disk once they are written."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from zarr.storage import LocalStore, WrapperStore

from steptrace_schema.durable import Disk

if TYPE_CHECKING:
    from pathlib import Path

    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer

    from steptrace_schema.durable import Durability


class DurableStore(WrapperStore[LocalStore]):
    """Waits for the disk with every object, its content before its name.

    An object that is replaced is thus the old or the new one, also after a loss of power.
    """

    async def set(self, key: str, value: Buffer) -> None:
        """Store an object."""
        root = self._store.root
        await asyncio.to_thread(_write, root, root / key, value.to_bytes())

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Store an object unless there is one."""
        if not await self.exists(key):
            await self.set(key, value)


def lasting(store: Store, durability: Durability) -> Store:
    """Return `store` so that its objects last as `durability` asks.

    An object store keeps what it has taken.
    """
    if durability == "fsync" and isinstance(store, LocalStore):
        return DurableStore(store)
    return store


def _write(root: Path, path: Path, content: bytes) -> None:
    disk = Disk()
    new = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(content)
    disk.file(temporary)
    temporary.replace(path)
    disk.names(path.parent)
    for folder in new:
        disk.names(folder.parent)
    if path.parent == root:
        disk.names(root.parent)
