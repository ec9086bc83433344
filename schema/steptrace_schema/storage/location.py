"""Where a trace is: a folder, a packed file, or an address in an object store.

Everything that has to know the difference is here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import os
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import xxhash

from steptrace_schema.errors import TraceError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from obstore.store import RetryConfig
    from zarr.abc.store import Store

PACKED_SUFFIX: Final = ".zip"
"""File name ending of a trace packed into one file."""

JOURNALS_VARIABLE: Final = "STEPTRACE_JOURNALS"
"""Environment variable with the folder for the journals of traces that are not on a local disk."""

METADATA_FILE: Final = "zarr.json"
"""Name of the file with the metadata of a group or array."""

_SCHEME: Final = "s3://"
_CONNECTIONS: Final = 16
_RETRIES: Final[RetryConfig] = {
    "max_retries": 3,
    "retry_timeout": datetime.timedelta(seconds=10),
    "backoff": {
        "init_backoff": datetime.timedelta(seconds=0.1),
        "max_backoff": datetime.timedelta(seconds=2),
        "base": 2,
    },
}


@final
@dataclasses.dataclass(frozen=True)
class Remote:
    """An address in an object store.

    Attributes
    ----------
    url
        ``s3://bucket/path``.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending of the name."""
        return Path(self.name).suffix

    def absolute(self) -> Remote:
        """Return the address, which is absolute."""
        return self

    def exists(self) -> bool:
        """Whether there is a Zarr group at the address."""
        from obstore import head

        with reaching(self):
            try:
                head(self.objects, METADATA_FILE)
            except FileNotFoundError:
                return False
            return True

    @property
    def objects(self) -> Any:
        """The object store below the address; credentials are those of the ``AWS_*`` variables."""
        return _objects(self.url)


Location: TypeAlias = Path | Remote
"""Where a trace is."""


@functools.cache
def _objects(url: str) -> Any:
    from obstore.store import S3Store

    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    try:
        return S3Store.from_url(url, client_options={"allow_http": plain}, retry_config=_RETRIES)
    except Exception as error:  # the package has one type for each way in which this is wrong
        msg = f"{url} is not an address of an object store ({str(error).splitlines()[0]})"
        raise TraceError(msg) from error


@contextlib.contextmanager
def reaching(location: Location) -> Iterator[None]:
    """Turn what goes wrong on the way to an object store into one sentence.

    Raises
    ------
    UnreachableError
        If the object store does not answer, or refuses.
    """
    if isinstance(location, Path):
        yield
        return
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        reason = str(error).splitlines()[0]
        msg = (
            f"{location} cannot be reached ({reason}); check the address, the network, and "
            "AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
        raise UnreachableError(msg) from error


def locate(path: str | Location) -> Location:
    """Return what `path` names.

    Parameters
    ----------
    path
        A local path, or ``s3://bucket/path``.

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
    if not path.startswith(_SCHEME):
        msg = f"{path}: traces are on a local disk or at {_SCHEME}bucket/path; give one of these"
        raise TraceError(msg)
    return Remote(path.rstrip("/"))


def is_packed(location: Location) -> bool:
    """Whether `location` names a trace packed into one file."""
    return location.suffix == PACKED_SUFFIX


def journal_path(store: str | Location) -> Path:
    """Return the folder of the journal that belongs to the store at `store`.

    It is beside a local store. That of a remote one is in the folder that the environment variable
    ``STEPTRACE_JOURNALS`` names, ``~/.cache/steptrace/journals`` by default.

    Examples
    --------
    >>> journal_path("runs/a.zarr").as_posix()
    'runs/a.zarr.journal'
    """
    location = locate(store)
    if isinstance(location, Path):
        return location.with_name(location.name + ".journal")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get(JOURNALS_VARIABLE) or cache / "steptrace" / "journals")
    return folder / f"{location.name}-{xxhash.xxh3_64_hexdigest(location.url.encode())}.journal"


def zarr_store(location: Location) -> Store:
    """Return the Zarr store at `location`, for reading."""
    # Here, because the recorder does without, and zarr-python takes 0.2 s to import.
    from zarr.storage import LocalStore, ObjectStore, ZipStore

    if isinstance(location, Remote):
        return ObjectStore(location.objects, read_only=True)
    if is_packed(location):
        return ZipStore(location, mode="r")
    return LocalStore(location, read_only=True)


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
    if isinstance(location, Remote):
        from obstore import get

        with reaching(location):
            return bytes(get(location.objects, name).bytes())
    if is_packed(location):
        with _unzipped(location) as archive:
            return archive.read(name)
    return (location / name).read_bytes()


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
    if isinstance(location, Remote):
        from obstore import get

        part: Any = (start, stop) if stop is not None else {"offset": start}
        if start < 0:
            part = {"suffix": -start}
        with reaching(location):
            return bytes(get(location.objects, name, options={"range": part}).bytes())
    with (location / name).open("rb", buffering=0) as file:
        begin = file.seek(start, os.SEEK_END if start < 0 else os.SEEK_SET)
        return file.read(-1 if stop is None else stop - begin)


def write_object(location: Remote, name: str, content: bytes) -> None:
    """Write one file of the trace in an object store; it is there whole, or not at all.

    Raises
    ------
    UnreachableError
        If the object store does not answer.
    """
    from obstore import put

    with reaching(location):
        put(location.objects, name, content)


@contextlib.contextmanager
def _unzipped(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (KeyError, FileNotFoundError):
        raise
    except Exception as error:  # one type for each field of the format that may be wrong
        raise zipfile.BadZipFile(str(error)) from error


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
        with _unzipped(location) as archive:
            return {name: archive.read(name) for name in names}
    return {name: read_file(location, name) for name in names}


def file_sizes(location: Location) -> dict[str, int]:
    """Return the stored bytes of every file of the trace at `location`, by name."""
    if isinstance(location, Remote):
        from obstore import list as list_objects

        with reaching(location):
            return {m["path"]: m["size"] for part in list_objects(location.objects) for m in part}
    if is_packed(location):
        with _unzipped(location) as archive:
            return {member.filename: member.compress_size for member in archive.infolist()}
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


def delete(location: Location) -> None:
    """Delete the trace at `location`, its root first, so that a part of it is no trace."""
    if isinstance(location, Remote):
        from obstore import delete as delete_objects

        with reaching(location):
            names = sorted(file_sizes(location), key=lambda name: name != METADATA_FILE)
            for name in names:
                delete_objects(location.objects, name)
    elif location.is_dir():
        shutil.rmtree(location)
    else:
        location.unlink()


def sweep(location: Location) -> None:
    """Delete what a killed writer left under temporary names; object stores have none."""
    if isinstance(location, Path):
        for left in location.rglob("*.partial"):
            left.unlink()
