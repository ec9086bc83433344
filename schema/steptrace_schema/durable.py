"""What "written" means: that the process may die, or that the machine may lose power."""

from __future__ import annotations

import abc
import os
from typing import TYPE_CHECKING, Final, Literal, final

if TYPE_CHECKING:
    from pathlib import Path

Durability = Literal["process", "fsync"]
"""What recorded steps survive: ``process`` the death of every process, as files do that the
operating system has taken over; ``fsync`` also a loss of power, which costs a wait for the disk at
every step."""


class Persistence(abc.ABC):
    """Makes files last as long as was asked for."""

    @abc.abstractmethod
    def file(self, path: Path) -> None:
        """Make the content of a file last."""

    @abc.abstractmethod
    def names(self, folder: Path) -> None:
        """Make the names in a folder last: those made, replaced and deleted."""

    @abc.abstractmethod
    def tree(self, folder: Path) -> None:
        """Make everything below a folder last that has changed since the last call."""


@final
class PageCache(Persistence):
    """Leaves it to the operating system, which outlives every process."""

    def file(self, path: Path) -> None:
        """Do nothing."""

    def names(self, folder: Path) -> None:
        """Do nothing."""

    def tree(self, folder: Path) -> None:
        """Do nothing."""


@final
class Disk(Persistence):
    """Waits until the disk has it."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}

    def file(self, path: Path) -> None:
        """Wait for the content of a file."""
        _sync(path)

    def names(self, folder: Path) -> None:
        """Wait for the names in a folder."""
        _sync(folder)

    def tree(self, folder: Path) -> None:
        """Wait for the files and folders that are new or changed, the names after the contents."""
        changed = []
        for path in (folder, *folder.rglob("*")):
            status = path.stat()
            # A replaced file is another one, with a number of its own.
            mark = (status.st_ino, status.st_mtime_ns)
            if self._seen.get(str(path)) != mark:
                changed.append(path)
                self._seen[str(path)] = mark
        for path in reversed(changed):
            _sync(path)
        if changed:
            _sync(folder.parent)


_PERSISTENCE: Final[dict[Durability, type[Persistence]]] = {"process": PageCache, "fsync": Disk}


def persistence(durability: Durability) -> Persistence:
    """Return what makes files last as `durability` asks.

    Examples
    --------
    >>> type(persistence("fsync")).__name__
    'Disk'
    """
    return _PERSISTENCE[durability]()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
