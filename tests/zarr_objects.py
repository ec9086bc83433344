"""The stored objects of an array that zarr-python has opened, to read them directly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steptrace_schema.encoding.objects import FolderSource

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    import zarr

    from steptrace_schema.encoding.objects import Objects, Read


def objects_of(folder: Path, array: zarr.Array[Any]) -> Objects:
    """Return what opens the objects of an array whose files are in a folder."""
    source = FolderSource(folder)

    def opened(position: tuple[int, ...]) -> AbstractContextManager[Read]:
        return source.opened(array.metadata.encode_chunk_key(position))

    return opened
