"""What POSIX systems alone have, and what is done in its place elsewhere.

Everything else that reads a trace is portable, so this module is all that Windows needs to be
looked at for. Recording is refused there: a recorder beside the training has to
replace and delete files that are open, which Windows does not allow.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_fcntl: Any
_msvcrt: Any
try:
    import fcntl as _fcntl
except ImportError:
    _fcntl = None
try:
    import msvcrt as _msvcrt
except ImportError:
    _msvcrt = None

IS_POSIX: Final = _fcntl is not None
"""Whether files can be locked, and replaced while they are open, as the recorder needs it."""

NO_LINK: Final[int] = getattr(os, "O_NOFOLLOW", 0)
NO_WAIT: Final[int] = getattr(os, "O_NONBLOCK", 0)
"""Open a pipe without waiting for its other end."""
CLOSED_BY_CHILD: Final[int] = getattr(os, "O_CLOEXEC", 0)
BINARY: Final[int] = getattr(os, "O_BINARY", 0)

_MOST_BUFFERS: Final = 512  # of one system call; the limit is 1024 on Linux
_SMALL_FILE: Final = 2**20
_DENSEST: Final = 64
_LOCKED_BYTE: Final = 2**30  # behind the content, because Windows keeps others from reading it


def require_recording() -> None:
    """Make sure that this system can record.

    Raises
    ------
    TraceError
        If it cannot.
    """
    if not IS_POSIX:
        msg = (
            "steptrace records on Linux and macOS, and reads traces on every system; on Windows, "
            "record in WSL (https://learn.microsoft.com/windows/wsl)"
        )
        raise TraceError(msg)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file until it is closed; return False where another process has locked it.

    Parameters
    ----------
    descriptor
        The file.
    shared
        Whether others may lock it so too. Only POSIX systems tell the two apart.
    """
    try:
        if _fcntl is not None:
            operation = _fcntl.LOCK_SH if shared else _fcntl.LOCK_EX
            _fcntl.flock(descriptor, operation | _fcntl.LOCK_NB)
        elif _msvcrt is not None:
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            _msvcrt.locking(descriptor, _msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
    except (BlockingIOError, PermissionError):
        return False
    return True


def is_running(process: int) -> bool:
    """Whether a process of this number is running; True where this system does not tell.

    Elsewhere than on POSIX systems, to ask by a signal would end the process.
    """
    if not IS_POSIX:
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def wait_for_disk(path: Path) -> None:
    """Wait until the disk has the content of a file, or the names in a folder.

    Elsewhere than on POSIX systems a folder cannot be waited for.
    """
    if not IS_POSIX and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY | BINARY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, buffers: list[memoryview]) -> None:
    """Write everything; a system call may write less than it was given."""
    if hasattr(os, "writev"):
        _write_each(buffers, lambda rest, _: os.writev(descriptor, rest))
    else:
        _write_each(buffers, lambda rest, _: os.write(descriptor, rest[0]))


def write_at(descriptor: int, begin: int, buffers: list[memoryview]) -> None:
    """Write everything from position `begin` of an open file on.

    Where there is no `os.pwritev`, the file's own position moves.
    """
    if hasattr(os, "pwritev"):
        _write_each(buffers, lambda rest, done: os.pwritev(descriptor, rest, begin + done))
    else:
        os.lseek(descriptor, begin, os.SEEK_SET)
        write_all(descriptor, buffers)


def _write_each(buffers: list[memoryview], write: Callable[[list[memoryview], int], int]) -> None:
    """Call `write` with what is left, and how much is done, until everything is written."""
    done = 0
    for start in range(0, len(buffers), _MOST_BUFFERS):
        pending = buffers[start : start + _MOST_BUFFERS]
        left = sum(map(len, pending))
        while left:
            written = write(pending, done)
            done += written
            left -= written
            while left and written >= len(pending[0]):
                written -= len(pending.pop(0))
            if left and written:
                pending[0] = pending[0][written:]


def read_exactly(descriptor: int, begin: int, target: memoryview) -> None:
    """Fill `target` with the bytes of an open file from position `begin` on.

    Where there is no `os.preadv`, the file's own position moves, so that only one thread may read
    an open file at a time.

    Raises
    ------
    ValueError
        If the file ends before.
    """
    done = 0
    while done < len(target):  # a system call may read less than it was asked for
        if hasattr(os, "preadv"):
            count = os.preadv(descriptor, [target[done:]], begin + done)
        else:
            os.lseek(descriptor, begin + done, os.SEEK_SET)
            part = os.read(descriptor, min(len(target) - done, 2**24))
            count = len(part)
            target[done : done + count] = part
        if count == 0:
            msg = f"it ends after {begin + done} bytes"
            raise ValueError(msg)
        done += count


def is_regular(descriptor: int) -> bool:
    """Whether an open file is a regular one, and no folder, pipe or device."""
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def is_mostly_holes(descriptor: int) -> bool:
    """Whether less than a 64th of an open file is on the disk: the rest reads as zeros.

    Such a file may claim any size. False where the file system does not tell.
    """
    size = os.fstat(descriptor).st_size
    if size < _SMALL_FILE or not hasattr(os, "SEEK_DATA"):
        return False
    there = end = 0
    while there < size // _DENSEST:
        try:
            begin = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, begin, os.SEEK_HOLE)
        except OSError as error:
            os.lseek(descriptor, 0, os.SEEK_SET)
            return error.errno == errno.ENXIO  # no more data; others: it cannot be asked
        there += end - begin
    os.lseek(descriptor, 0, os.SEEK_SET)
    return False
