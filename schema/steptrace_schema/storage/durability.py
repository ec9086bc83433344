"""What "written" means: that the process may die, or that the machine may lose power."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Final, final

from steptrace_schema.storage.posix import wait_for_disk

if TYPE_CHECKING:
    from pathlib import Path

    from steptrace_schema.format.policy import Durability


class Persistence(abc.ABC):
    """Makes files last as long as was asked for."""

    @abc.abstractmethod
    def file(self, path: Path) -> None:
        """Make the content of a file last."""

    @abc.abstractmethod
    def names(self, folder: Path) -> None:
        """Make the names in a folder last: those made, replaced and deleted."""


@final
class PageCache(Persistence):
    """Leaves it to the operating system, which outlives every process."""

    def file(self, path: Path) -> None:
        """Do nothing."""

    def names(self, folder: Path) -> None:
        """Do nothing."""


@final
class Disk(Persistence):
    """Waits until the disk has it."""

    def file(self, path: Path) -> None:
        """Wait for the content of a file."""
        wait_for_disk(path)

    def names(self, folder: Path) -> None:
        """Wait for the names in a folder."""
        wait_for_disk(folder)


_PERSISTENCE: Final[dict[Durability, type[Persistence]]] = {"process": PageCache, "fsync": Disk}


def persistence(durability: Durability) -> Persistence:
    """Return what makes files last as `durability` asks.

    Examples
    --------
    >>> type(persistence("fsync")).__name__
    'Disk'
    """
    return _PERSISTENCE[durability]()


def make_folder(folder: Path, *, exist_ok: bool = False) -> list[Path]:
    """Make a folder, and those above it that are missing.

    Returns
    -------
    list of Path
        The folders whose names have to be made to last: those that got a new one.

    Raises
    ------
    FileExistsError
        If it is there and `exist_ok` does not say that it may be.
    """
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=exist_ok)
    return [each.parent for each in new]
