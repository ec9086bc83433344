"""A trace as one file to pass around, and back."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Final

from steptrace_analyzer.progress import untold
from steptrace_analyzer.trace.files import output_file
from steptrace_analyzer.trace.open import trace_location
from steptrace_schema.errors import DamagedTraceError, NotATraceError, TraceError, TraceExistsError
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.where import journal_path
from steptrace_schema.moving.reencode import reencode
from steptrace_schema.storage.location import is_packed
from steptrace_schema.storage.names import open_to_read
from steptrace_schema.storage.packed import Archive
from steptrace_schema.store.opening import read_attributes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_analyzer.progress import Progress
    from steptrace_analyzer.trace.open import TraceOrPath
    from steptrace_schema.format.policy import Profile

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the same trace packs to the same bytes
_BLOCK: Final = 4 * 2**20


def pack(
    path: TraceOrPath,
    output: str | Path | None = None,
    *,
    profile: Profile | None = None,
    overwrite: bool = False,
    progress: Progress = untold,
) -> Path:
    """Write a trace into one ``.zarr.zip`` file, which ``open_trace`` and zarr open directly.

    Members are stored as they are: chunks are compressed already. The file appears under its name
    only when it is whole. The same trace gives the same bytes. The trace itself is left as it is.

    Parameters
    ----------
    path
        Folder of a finished trace, or the trace opened from it.
    output
        The file to write. By default beside the trace, with ``.zip`` added to its name.
    profile
        Encode the values again, without loss. ``"compact"`` makes the smallest file; other programs
        need the package numcodecs[pcodec] to read it. By default the values stay as recorded.
    overwrite
        Replace `output` if it exists.
    progress
        Called with the number of bytes that are done, and the number of all.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    NotATraceError
        If there is no trace folder at `path`.
    TraceError
        If the trace is not finished.
    TraceExistsError
        If `output` exists and `overwrite` is not set.

    Examples
    --------
    >>> pack("run.zarr")  # doctest: +SKIP
    PosixPath('run.zarr.zip')
    """
    path = _local(path)
    beside = path.with_name(path.name + ".zip")
    output = beside if output is None else output_file(output, beside.name)
    if is_packed(path):
        msg = f"{path} is packed already; give the folder of a trace"
        raise NotATraceError(msg)
    if not is_packed(output):
        msg = f"{output} does not end in .zip, so it would not open; name it {output}.zip"
        raise TraceError(msg)
    _refuse_unfinished(path)
    _refuse_existing(output, overwrite=overwrite)
    if profile is None:
        _zip(path, output, progress)
        return output
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        encoded = Path(folder) / path.name
        reencode(path, encoded, profile, progress)
        _zip(encoded, output, untold)
    return output


def _zip(path: Path, output: Path, progress: Progress) -> None:
    # Metadata first: a reader that streams the file learns what it holds before the data.
    files = sorted(
        (file for file in _without_links(path) if file.is_file()),
        key=lambda file: (file.name != "zarr.json", file.relative_to(path).as_posix()),
    )
    total = sum(file.stat().st_size for file in files)
    done = 0
    with (
        _replacing(output) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        for file in files:
            member = zipfile.ZipInfo(file.relative_to(path).as_posix(), date_time=_EPOCH)
            member.external_attr = 0o644 << 16
            member.file_size = file.stat().st_size
            with _opened(file) as source, archive.open(member, "w") as target:
                while block := source.read(_BLOCK):
                    target.write(block)
                    done += len(block)
                    progress(done, total)


def _opened(file: Path) -> IO[bytes]:
    try:
        return os.fdopen(open_to_read(file), "rb")
    except ValueError as error:
        msg = f"{file} is not packed ({error}); copy the trace again, or do not trust it"
        raise DamagedTraceError(msg) from error


def _without_links(path: Path) -> Iterator[Path]:
    """Yield what is in a folder; a link would put what it leads to into the file."""
    for found in path.rglob("*"):
        if found.is_symlink():
            msg = f"{found} is a link, so the trace is not packed; replace it by what it leads to"
            raise TraceError(msg)
        yield found


def unpack(
    path: TraceOrPath,
    output: str | Path | None = None,
    *,
    progress: Progress = untold,
) -> Path:
    """Write a packed trace back into a folder.

    Parameters
    ----------
    path
        A ``.zarr.zip`` file, or the trace opened from it.
    output
        The folder to write. By default beside the file, without ``.zip``.
    progress
        Called with the number of bytes that are done, and the number of all.

    Returns
    -------
    Path
        The folder written. It appears under its name only when it is whole.

    Raises
    ------
    NotATraceError
        If `path` is not a packed trace, or a member would be written outside of `output`.
    TraceExistsError
        If `output` exists.
    DamagedTraceError
        If a member does not have the checksum that the file states.

    Examples
    --------
    >>> unpack("run.zarr.zip")  # doctest: +SKIP
    PosixPath('run.zarr')
    """
    path = _local(path)
    if output is not None and "://" in str(output):
        output_file(output, path.stem)
    output = Path(output) if output is not None else path.with_suffix("")
    if not is_packed(path):
        msg = f"{path} is not a packed trace; give a .zarr.zip file"
        raise NotATraceError(msg)
    read_attributes(path)
    if output.exists():
        msg = f"{output} exists; choose another name with --output, or remove it"
        raise TraceExistsError(msg)
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        _extract(path, folder, progress)
        folder.chmod(0o755 & ~_umask())
        folder.rename(output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return output


def _local(path: TraceOrPath) -> Path:
    location = trace_location(path)
    if not isinstance(location, Path):
        msg = f"{location} is not on a local disk; copy the trace into a folder first"
        raise TraceError(msg)
    return location


def _extract(path: Path, folder: Path, progress: Progress) -> None:
    with Archive(path) as archive:
        members = archive.members
        _refuse_unsafe(path, members)
        total = sum(member.file_size for member in members)
        done = 0
        for member in members:
            target = folder / member.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with archive.open(member) as source, target.open("xb") as file:
                    while block := source.read(_BLOCK):
                        file.write(block)
                        done += len(block)
                        progress(done, total)
            except (zipfile.BadZipFile, EOFError, zlib.error) as error:
                msg = (
                    f"{path}: member '{member.filename}' is damaged ({error}); copy the file again"
                )
                raise DamagedTraceError(msg) from error


def _refuse_unsafe(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse links, names given twice, and what would be written outside of the folder."""
    seen: set[str] = set()
    for member in members:
        name = member.filename
        is_link = stat.S_ISLNK(member.external_attr >> 16)
        outside = name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts
        if is_link or outside or ":" in name or name in seen:
            msg = (
                f"{path}: member {name!r} is not a safe relative path, or is there twice, so "
                "nothing was unpacked; do not trust this file"
            )
            raise NotATraceError(msg)
        seen.add(name)


def _refuse_unfinished(path: Path) -> None:
    advice = f"run 'steptrace recover {path}' if its training has ended"
    if JournalReader(journal_path(path)).exists:
        msg = f"{path} is not finished: it has a journal beside it; {advice}"
        raise TraceError(msg)
    if read_attributes(path).status == "recording":
        msg = f"{path} is not finished: its status is 'recording'; {advice}"
        raise TraceError(msg)


def _refuse_existing(output: Path, *, overwrite: bool) -> None:
    if output.exists() and not overwrite:
        msg = f"{output} exists; replace it with --overwrite, or choose another name with --output"
        raise TraceExistsError(msg)


@contextmanager
def _replacing(output: Path) -> Iterator[Path]:
    """Yield a temporary file that takes the name `output` when all went well."""
    output.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644 & ~_umask())
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
