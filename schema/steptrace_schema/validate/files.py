"""The files of a trace, in a folder or packed."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

from steptrace_schema.store import is_packed

if TYPE_CHECKING:
    from pathlib import Path


def files_of(path: Path) -> frozenset[str]:
    """Return the names of all files that are not empty, relative to the trace.

    Zarr takes an empty chunk file for a chunk that was never written, so it counts as absent.
    """
    if is_packed(path):
        with zipfile.ZipFile(path) as archive:
            return frozenset(info.filename for info in archive.infolist() if info.file_size)
    return frozenset(
        p.relative_to(path).as_posix()
        for p in path.rglob("*")
        if p.is_file() and p.stat().st_size > 0
    )


def read_text(path: Path, name: str) -> str:
    """Return the text of one file."""
    if is_packed(path):
        with zipfile.ZipFile(path) as archive:
            return archive.read(name).decode()
    return (path / name).read_text(encoding="utf-8")
