"""Names of files inside of a trace, which must not leave it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from steptrace_schema.errors import DamagedTraceError

if TYPE_CHECKING:
    from pathlib import Path

_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT: Final = getattr(os, "O_NONBLOCK", 0)  # a pipe would be waited for
_CLOSED_BY_CHILD: Final = getattr(os, "O_CLOEXEC", 0)
_BINARY: Final = getattr(os, "O_BINARY", 0)


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


def open_to_read(path: str | Path) -> int:
    """Open a regular file and return its descriptor; it may be a link.

    Raises
    ------
    ValueError
        If it is a folder, a pipe or a device: to read from one may never end.
    OSError
        If it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | _CLOSED_BY_CHILD | _NO_WAIT | _BINARY)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    msg = "it is no regular file"
    raise ValueError(msg)


def open_to_write(path: str | Path) -> int:
    """Make or empty a file and return its descriptor; a link under its name is not followed.

    A link could lead anywhere.

    Raises
    ------
    OSError
        If it cannot be written, or is a link.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return os.open(path, flags | _CLOSED_BY_CHILD | _NO_LINK | _NO_WAIT | _BINARY, 0o666)


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
