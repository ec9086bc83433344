"""Reading a trace that is packed into one ZIP file, which a stranger may have made.

Members are stored, or deflated within bounds: a kilobyte of deflated zeros becomes a megabyte.
"""

from __future__ import annotations

import os
import struct
import threading
import zipfile
from typing import IO, TYPE_CHECKING, Final

from steptrace_schema.storage.names import open_to_read

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_ENCRYPTED: Final = 1 | 1 << 6  # of a member's flags: encrypted, or strongly so
_PATCHED: Final = 1 << 5
_MEMBER_BYTES: Final = 32 * 2**20  # a chunk of fill values, which is deflated to a 1,000th
_MEMBER_RATIO: Final = 100
_TOTAL_BYTES: Final = 256 * 2**20
_TOTAL_RATIO: Final = 30


class Archive:
    """A packed trace that is open for reading, by any thread.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    zipfile.BadZipFile
        If it is damaged, or its members would become far more than the file.
    FileNotFoundError
        If it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._file = os.fdopen(open_to_read(path), "rb")
        except ValueError as error:
            raise zipfile.BadZipFile(str(error)) from error
        try:
            self._archive = zipfile.ZipFile(self._file)
            _refuse_bombs(self._archive.infolist(), os.fstat(self._file.fileno()).st_size)
        except Exception as error:  # one type for each field of the format that may be wrong
            self._file.close()
            raise zipfile.BadZipFile(str(error)) from error

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._archive.close()
        self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_archive"):
            self.close()

    @property
    def members(self) -> list[zipfile.ZipInfo]:
        """Its members, without folders."""
        return [member for member in self._archive.infolist() if not member.is_dir()]

    @property
    def sizes(self) -> dict[str, int]:
        """Stored bytes of every member, by name."""
        return {member.filename: member.compress_size for member in self._archive.infolist()}

    def open(self, member: zipfile.ZipInfo) -> IO[bytes]:
        """Open a member, to read it in parts by one thread.

        Raises
        ------
        zipfile.BadZipFile
            If it is damaged.
        """
        try:
            return self._archive.open(member)
        except (NotImplementedError, RuntimeError, ValueError, EOFError, struct.error) as error:
            raise zipfile.BadZipFile(str(error)) from error

    def read(self, name: str) -> bytes:
        """Return the content of a member.

        Raises
        ------
        KeyError
            If there is none of that name.
        zipfile.BadZipFile
            If it is damaged.
        """
        try:
            with self._lock:
                return self._archive.read(name)
        except KeyError:
            raise
        except Exception as error:
            msg = f"member {name!r:.200}: {error}"
            raise zipfile.BadZipFile(msg) from error


def _refuse_bombs(members: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse members that are made in another way than stored or deflated, or become too much.

    Raises
    ------
    zipfile.BadZipFile
        If there are such.
    """
    for member in members:
        name, bytes_in, bytes_out = member.filename, member.compress_size, member.file_size
        msg = ""
        if not name:
            msg = "a member has no name"
        elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            msg = f"member {name!r:.200} is neither stored nor deflated"
        elif member.flag_bits & (_ENCRYPTED | _PATCHED):
            msg = f"member {name!r:.200} is encrypted or a patch"
        elif member.compress_type == zipfile.ZIP_STORED and bytes_in != bytes_out:
            msg = f"member {name!r:.200} is stored with {bytes_in} bytes and has {bytes_out}"
        elif bytes_out > _MEMBER_BYTES + _MEMBER_RATIO * bytes_in:
            msg = f"member {name!r:.200} would become {bytes_out} bytes out of {bytes_in}"
        if msg:
            raise zipfile.BadZipFile(msg)
    taken = sum(member.compress_size for member in members)
    if taken > size:
        msg = f"its members overlap: they take {taken} bytes of {size}"
        raise zipfile.BadZipFile(msg)
    total = sum(member.file_size for member in members)
    if total > _TOTAL_BYTES + _TOTAL_RATIO * size:
        msg = f"its members would become {total} bytes out of {size}"
        raise zipfile.BadZipFile(msg)
