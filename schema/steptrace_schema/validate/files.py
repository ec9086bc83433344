"""The files of a trace, wherever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steptrace_schema.location import file_sizes, read_file

if TYPE_CHECKING:
    from steptrace_schema.location import Location


def files_of(path: Location) -> frozenset[str]:
    """Return the names of all files that are not empty, relative to the trace.

    Zarr takes an empty chunk file for a chunk that was never written, so it counts as absent.
    """
    return frozenset(name for name, size in file_sizes(path).items() if size)


def read_text(path: Location, name: str) -> str:
    """Return the text of one file."""
    return read_file(path, name).decode()
