"""What a trace contains: its files, their names and sizes, wherever it is."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.names import METADATA_FILE
from steptrace_schema.storage.location import Location, is_packed
from steptrace_schema.storage.names import inside, open_to_read
from steptrace_schema.storage.object_store import Remote, object_store_errors
from steptrace_schema.storage.packed import Archive

if TYPE_CHECKING:
    from collections.abc import Collection


_CONNECTIONS: Final = 16


def has_root(location: Location) -> bool:
    """Whether there is a Zarr hierarchy at `location`, packed or not."""
    if isinstance(location, Path) and not is_packed(location):
        return (location / METADATA_FILE).exists()
    return location.exists()


def read_file(location: Location, name: str) -> bytes:
    """Return the content of one file of the trace at `location`.

    Raises
    ------
    OSError, KeyError, zipfile.BadZipFile
        If it cannot be read.
    UnreachableError
        If an object store does not answer.
    """
    inside(location, name)
    if isinstance(location, Remote):
        from obstore import get

        with object_store_errors(location):
            return bytes(get(location.objects, name).bytes())
    if is_packed(location):
        with Archive(location) as archive:
            return archive.read(name)
    with os.fdopen(open_to_read(location / name), "rb", buffering=0) as file:
        return file.readall()


def read_part(location: Path | Remote, name: str, start: int, stop: int | None) -> bytes:
    """Return bytes `start` to `stop` of one file of a trace that is not packed.

    A negative `start` counts from the end; `stop` None is the end.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    UnreachableError
        If an object store does not answer.
    """
    inside(location, name)
    if isinstance(location, Remote):
        from obstore import get

        part: Any = (start, stop) if stop is not None else {"offset": start}
        if start < 0:
            part = {"suffix": -start}
        with object_store_errors(location):
            return bytes(get(location.objects, name, options={"range": part}).bytes())
    with os.fdopen(open_to_read(location / name), "rb", buffering=0) as file:
        begin = file.seek(start, os.SEEK_END if start < 0 else os.SEEK_SET)
        return file.read(-1 if stop is None else stop - begin)


def read_files(location: Location, names: Collection[str]) -> dict[str, bytes]:
    """Return the content of many small files of the trace at `location`, by name.

    Raises
    ------
    OSError, KeyError, zipfile.BadZipFile
        If one cannot be read.
    UnreachableError
        If an object store does not answer.
    """
    if isinstance(location, Remote):
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            contents = pool.map(functools.partial(read_file, location), names)
            return dict(zip(names, contents, strict=True))
    if is_packed(location):
        with Archive(location) as archive:
            return {name: archive.read(name) for name in names}
    return {name: read_file(location, name) for name in names}


def file_size(location: Path | Remote, name: str) -> int:
    """Return the bytes of one file of a trace that is not packed.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    UnreachableError
        If an object store does not answer.
    """
    inside(location, name)
    if isinstance(location, Remote):
        from obstore import head

        with object_store_errors(location):
            return int(head(location.objects, name)["size"])
    return (location / name).stat().st_size


def file_sizes(location: Location) -> dict[str, int]:
    """Return the stored bytes of every file of the trace at `location`, by name."""
    if isinstance(location, Remote):
        from obstore import list as list_objects

        with object_store_errors(location):
            return {m["path"]: m["size"] for part in list_objects(location.objects) for m in part}
    if is_packed(location):
        with Archive(location) as archive:
            return archive.sizes
    return {
        file.relative_to(location).as_posix(): file.stat().st_size
        for file in location.rglob("*")
        if file.is_file()
    }


def metadata_files(location: Location) -> list[str]:
    """Return the names of the files with the metadata of all groups and arrays, in order."""
    if isinstance(location, Path) and not is_packed(location):
        found = (path.relative_to(location).as_posix() for path in location.rglob(METADATA_FILE))
    else:
        sizes = file_sizes(location)
        found = (name for name in sizes if name.rpartition("/")[2] == METADATA_FILE)
    return sorted(found)
