"""Writing the files of a store, a folder or below an address in an object store.

Not through Zarr: its own stores pass each file through an event loop in another thread, and to
import them takes longer than to move the records of a short run.
"""

from __future__ import annotations

import abc
import os
from typing import TYPE_CHECKING

from steptrace_schema.storage.contents import file_size, read_part
from steptrace_schema.storage.durability import Disk, make_folder
from steptrace_schema.storage.names import Folders, inside, open_to_write
from steptrace_schema.storage.object_store import Remote, write_object

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from typing_extensions import Buffer

    from steptrace_schema.format.policy import Durability
    from steptrace_schema.storage.location import Location


class Files(abc.ABC):
    """The files of a store that is being written.

    Attributes
    ----------
    location
        Where the store is.
    """

    location: Location

    @abc.abstractmethod
    def put(self, name: str, pieces: Sequence[Buffer]) -> None:
        """Write a file that nobody reads yet, because no commit has said that it is there."""

    @abc.abstractmethod
    def replace(self, name: str, pieces: Sequence[Buffer]) -> None:
        """Write a file that may be there already: afterwards it is the old or the new one."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return a part of a file, as `location.read_part` does."""
        return read_part(self.location, name, start, stop)

    def size(self, name: str) -> int:
        """Return the bytes of a file, as `contents.file_size` does."""
        return file_size(self.location, name)


class LocalFiles(Files):
    """Files of a folder."""

    def __init__(self, location: Path) -> None:
        self.location: Path = location
        self._folders = Folders(location)

    def put(self, name: str, pieces: Sequence[Buffer]) -> None:
        """Write a file."""
        _write(self.location / inside(self.location, name), pieces, self._folders)

    def replace(self, name: str, pieces: Sequence[Buffer]) -> None:
        """Write a file under another name, and rename it."""
        path = self.location / inside(self.location, name)
        temporary = path.with_name(path.name + ".partial")
        _write(temporary, pieces, self._folders)
        temporary.replace(path)


class DurableFiles(Files):
    """Files of a folder that are on the disk once they are written, the content before the name.

    One that is replaced is thus the old or the new one, also after a loss of power.
    """

    def __init__(self, location: Path) -> None:
        self.location: Path = location
        self._folders = Folders(location)
        self._disk = Disk()

    def put(self, name: str, pieces: Sequence[Buffer]) -> None:
        """Write a file."""
        self.replace(name, pieces)

    def replace(self, name: str, pieces: Sequence[Buffer]) -> None:
        """Write a file, and wait for the disk."""
        path = self.location / inside(self.location, name)
        self._folders.check(path.parent)
        grown = make_folder(path.parent, exist_ok=True)
        temporary = path.with_name(path.name + ".partial")
        _write(temporary, pieces, self._folders)
        self._disk.file(temporary)
        temporary.replace(path)
        for folder in (path.parent, *grown):
            self._disk.names(folder)
        if path.parent == self.location:
            self._disk.names(self.location.parent)


class RemoteFiles(Files):
    """Objects of an object store, each of which is the old or the new one, and lasts."""

    def __init__(self, location: Remote) -> None:
        self.location: Remote = location

    def put(self, name: str, pieces: Sequence[Buffer]) -> None:
        """Write an object."""
        write_object(self.location, name, b"".join(pieces))

    def replace(self, name: str, pieces: Sequence[Buffer]) -> None:
        """Write an object."""
        self.put(name, pieces)


def files_of(location: Location, durability: Durability) -> Files:
    """Return the files of the store at `location`, which last as `durability` asks."""
    if isinstance(location, Remote):
        return RemoteFiles(location)
    return DurableFiles(location) if durability == "fsync" else LocalFiles(location)


def _write(path: Path, pieces: Sequence[Buffer], folders: Folders) -> None:
    folders.check(path.parent)
    try:
        descriptor = open_to_write(path)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_to_write(path)
    with os.fdopen(descriptor, "wb") as file:
        file.writelines(pieces)
