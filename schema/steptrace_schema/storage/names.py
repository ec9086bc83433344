"""Names of files inside of a trace, which must not leave it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.storage.posix import (
    BINARY,
    CLOSED_BY_CHILD,
    NO_LINK,
    NO_WAIT,
    is_mostly_holes,
    is_regular,
    read_exactly,
)

if TYPE_CHECKING:
    from pathlib import Path


def inside(location: object, name: str) -> str:
    """Return the name of a file of a trace if it stays below the trace's root.

    What a trace declares is checked where it is read; this is the last look before the disk.

    Parameters
    ----------
    location
        The trace, named in the error.
    name
        Relative to the root, parts joined by ``/``.

    Raises
    ------
    DamagedTraceError
        If it would leave the root, on this system or on another one.

    Examples
    --------
    >>> inside("run.zarr", "weights/dense/kernel/c.0.0")
    'weights/dense/kernel/c.0.0'
    """
    parts = name.split("/")
    if not any(part in ("", ".", "..") for part in parts) and not set(name) & {"\\", "\0", ":"}:
        return name
    msg = (
        f"{location}: the name {name!r:.200} leaves the trace, so nothing is read or written "
        "under it; do not trust this trace"
    )
    raise DamagedTraceError(msg)


def open_to_read(path: str | Path, *, holes: bool = False) -> int:
    """Open a regular file and return its descriptor; it may be a link.

    Parameters
    ----------
    path
        The file.
    holes
        Whether most of it may be holes, which take no space, so that it may claim any size.

    Raises
    ------
    ValueError
        If it is a folder, a pipe or a device: to read from one may never end; or mostly holes.
    OSError
        If it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | CLOSED_BY_CHILD | NO_WAIT | BINARY)
    msg = ""
    if not is_regular(descriptor):
        msg = "it is no regular file"
    elif not holes and is_mostly_holes(descriptor):
        msg = f"of its {os.fstat(descriptor).st_size} bytes nearly all are holes"
    if not msg:
        return descriptor
    os.close(descriptor)
    raise ValueError(msg)


def open_to_write(path: str | Path, *, emptied: bool = True) -> int:
    """Make a file, or open one, and return its descriptor; a link under its name is not followed.

    A link could lead anywhere.

    Parameters
    ----------
    path
        The file.
    emptied
        Whether one that is there loses its content.

    Raises
    ------
    OSError
        If it cannot be written, or is a link.
    """
    flags = os.O_RDWR | os.O_CREAT | (os.O_TRUNC if emptied else 0)
    return os.open(path, flags | CLOSED_BY_CHILD | NO_LINK | NO_WAIT | BINARY, 0o666)


def read_alone(path: str | Path, begin: int, target: memoryview, *, holes: bool = False) -> None:
    """Fill `target` with the bytes of a file that is opened for this alone.

    `holes` as for :func:`open_to_read`.

    Raises
    ------
    ValueError
        If the file ends before, or is no regular one.
    OSError
        If it cannot be opened.
    """
    descriptor = open_to_read(path, holes=holes)
    try:
        read_exactly(descriptor, begin, target)
    finally:
        os.close(descriptor)


class Folders:
    """Refuses folders of a trace that are links out of it.

    Parameters
    ----------
    root
        The trace, which may be a link itself.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: set[Path] = set()

    def check(self, folder: Path) -> None:
        """Make sure that `folder` is inside of the trace, wherever links lead.

        Raises
        ------
        DamagedTraceError
            If it is not.
        """
        if folder in self._known:
            return
        if not folder.resolve().is_relative_to(self._root.resolve()):
            msg = (
                f"{folder} is a link that leaves the trace, so nothing is written into it; replace "
                "it by what it leads to, or do not trust this trace"
            )
            raise DamagedTraceError(msg)
        self._known.add(folder)
