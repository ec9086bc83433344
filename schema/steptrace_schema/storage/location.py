"""Where a trace is: a folder, a packed file, or an address in an object store."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeAlias
from urllib.request import url2pathname

from steptrace_schema.errors import TraceError
from steptrace_schema.storage.object_store import SCHEME, Remote

PACKED_SUFFIX: Final = ".zip"
"""File name ending of a trace packed into one file."""


_FILE_SCHEME: Final = "file://"

Location: TypeAlias = Path | Remote
"""Where a trace is."""


def locate(path: str | Location) -> Location:
    """Return what `path` names.

    Parameters
    ----------
    path
        A local path, ``file:///path``, or ``s3://bucket/path``.

    Raises
    ------
    TraceError
        If it is an address of another kind.

    Examples
    --------
    >>> locate("s3://bucket/run.zarr")
    Remote(url='s3://bucket/run.zarr')
    >>> locate("run.zarr").name
    'run.zarr'
    """
    if isinstance(path, Remote | Path):
        return path
    if "://" not in path:
        return Path(path)
    if path.startswith(_FILE_SCHEME):
        return _local(path)
    if not path.startswith(SCHEME):
        msg = f"{path}: traces are on a local disk or at {SCHEME}bucket/path; give one of these"
        raise TraceError(msg)
    return Remote(path.rstrip("/"))


def _local(address: str) -> Path:
    """Return the path that a ``file://`` address of this machine names (RFC 8089)."""
    host, separator, path = address.removeprefix(_FILE_SCHEME).partition("/")
    if not separator or host not in ("", "localhost"):
        msg = f"{address}: an address of a file names no other host; write file:///path"
        raise TraceError(msg)
    return Path(url2pathname(f"/{path}"))


def is_packed(location: Location) -> bool:
    """Whether `location` names a trace packed into one file."""
    return location.suffix == PACKED_SUFFIX
