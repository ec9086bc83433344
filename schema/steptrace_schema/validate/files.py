"""The files of a trace, wherever it is."""

from __future__ import annotations

import zipfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from steptrace_schema.names import METADATA_FILE
from steptrace_schema.storage.contents import file_sizes, read_file, read_files

if TYPE_CHECKING:
    from steptrace_schema.storage.location import Location


def files_of(path: Location) -> frozenset[str]:
    """Return the names of all files that are not empty, relative to the trace.

    Zarr takes an empty chunk file for a chunk that was never written, so it counts as absent.
    """
    return frozenset(name for name, size in file_sizes(path).items() if size)


def metadata_files(path: Location) -> dict[str, bytes | str]:
    """Return every zarr.json by its name relative to the trace: its content, or why it has none."""
    names = sorted(name for name in file_sizes(path) if PurePosixPath(name).name == METADATA_FILE)
    try:
        return dict(read_files(path, names))
    except (zipfile.BadZipFile, OSError, ValueError):
        return {name: _content_or_reason(path, name) for name in names}


def _content_or_reason(path: Location, name: str) -> bytes | str:
    try:
        return read_file(path, name)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        return str(error)
