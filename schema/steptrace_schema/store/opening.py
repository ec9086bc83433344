"""The store: a trace as a Zarr v3 hierarchy."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from steptrace_schema.errors import (
    DamagedTraceError,
    NotATraceError,
    TraceExistsError,
    UnsupportedVersionError,
)
from steptrace_schema.format.attributes import TraceAttributes
from steptrace_schema.format.consolidation import CONSOLIDATED
from steptrace_schema.format.json_text import parse_json
from steptrace_schema.format.root_checksum import is_changed
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.where import journal_path
from steptrace_schema.names import ATTRIBUTES_KEY, METADATA_FILE
from steptrace_schema.storage.contents import has_root, metadata_files, read_file, read_files
from steptrace_schema.storage.location import (
    is_packed as is_packed,
)
from steptrace_schema.storage.locks import is_being_moved, live_writer
from steptrace_schema.storage.names import inside
from steptrace_schema.storage.object_store import Remote
from steptrace_schema.storage.removal import delete
from steptrace_schema.version import FORMAT_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steptrace_schema.storage.location import Location


def supported(version: object) -> bool:
    """Whether a trace of format `version` (``major.minor``) can be read.

    Examples
    --------
    >>> supported("1.7"), supported("2.0"), supported(None)
    (True, False, False)
    """
    major = FORMAT_VERSION.partition(".")[0]
    return isinstance(version, str) and version.partition(".")[0] == major


def parse_attributes(path: Location, attributes: object) -> TraceAttributes:
    """Read the root attributes of the trace at `path`.

    Parameters
    ----------
    path
        Named in errors.
    attributes
        The value of the attribute ``steptrace`` of the root group.

    Raises
    ------
    NotATraceError
        If there is none, or it is not understood.
    UnsupportedVersionError
        If the trace is of another major version.
    """
    if not isinstance(attributes, dict) or "version" not in attributes:
        msg = (
            f"{path} is a Zarr group but not a trace: its root attributes have no "
            f"'{ATTRIBUTES_KEY}' with a 'version'; give the path of the trace itself"
        )
        raise NotATraceError(msg)
    if not supported(attributes["version"]):
        msg = (
            f"{path} is a trace of format {attributes['version']}, and this steptrace reads "
            f"format {FORMAT_VERSION.partition('.')[0]}.x; upgrade with "
            "'pip install --upgrade steptrace'"
        )
        raise UnsupportedVersionError(msg)
    try:
        return TraceAttributes.model_validate(attributes)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        msg = f"{path}: root attribute '{where}' is not valid ({first['msg']})"
        raise NotATraceError(msg) from error


def read_attributes(path: Location) -> TraceAttributes:
    """Read the root attributes of the trace at `path` without opening an array.

    Raises
    ------
    NotATraceError
        If there is no trace at `path`.
    UnsupportedVersionError
        If it is of another major version.
    """
    return _read_root(path)[0]


def _read_root(path: Location) -> tuple[TraceAttributes, bytes, Any]:
    """Return the root attributes, and the zarr.json that they are in as bytes and as values."""
    refuse_missing(path)
    traces = _traces_in(path)
    if traces:
        count = "one trace" if len(traces) == 1 else f"{len(traces)} traces"
        msg = f"{path} is a folder of {count}; give the path of a trace: {', '.join(traces)}"
        raise NotATraceError(msg)
    try:
        content = read_file(path, METADATA_FILE)
        root = parse_json(content)
        attributes = root["attributes"].get(ATTRIBUTES_KEY)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, AttributeError, TypeError) as error:
        msg = f"{path} is not a trace: it has no readable zarr.json of a Zarr v3 group ({error})"
        raise NotATraceError(msg) from error
    return parse_attributes(path, attributes), content, root


def refuse_missing(path: Location) -> None:
    """Make sure that there is something to read at `path`.

    Raises
    ------
    NotATraceError
        If there is nothing, or all of the trace is still in its journal.
    """
    journal = journal_path(path)
    if JournalReader(journal).exists and not has_root(path):
        msg = (
            f"{path} does not exist yet: its steps are in {journal}; when its training has ended, "
            f"'steptrace recover {path}' finishes the trace"
        )
        raise NotATraceError(msg)
    if not path.exists():
        msg = (
            f"{path} does not exist; give the path of a trace (a .zarr folder, a .zarr.zip file "
            "or s3://bucket/path)"
        )
        raise NotATraceError(msg)


def _traces_in(path: Location) -> list[str]:
    """Return the traces in a folder that is none itself, such as those of several workers."""
    if not isinstance(path, Path) or not path.is_dir() or has_root(path):
        return []
    return sorted(found.parent.name for found in path.glob("*/zarr.json"))


def refuse_existing(path: Location, *, overwrite: bool) -> None:
    """Make sure that a new trace can be written at `path`.

    Parameters
    ----------
    path
        Where a run is to write its trace.
    overwrite
        Delete a trace, with its journal, that is already there. Anything that is not a trace is
        never deleted.

    Raises
    ------
    TraceExistsError
        If something is there that may not be deleted, or a live run is writing it.
    """
    journal = journal_path(path)
    _refuse_live(path, journal)
    if JournalReader(journal).is_leftover:
        shutil.rmtree(journal)
    if not path.exists() and not journal.exists():
        return
    if not overwrite:
        what = path if path.exists() else journal
        msg = f"{what} exists; choose another path, or pass overwrite=True to replace that trace"
        raise TraceExistsError(msg)
    if path.exists():
        try:
            _refuse_elsewhere(path, journal, read_attributes(path))
        except UnsupportedVersionError:
            pass  # a trace all the same
        except NotATraceError as error:
            msg = f"{path} exists and is not a trace, so it is not replaced; choose another path"
            raise TraceExistsError(msg) from error
        delete(path)
    if journal.exists():
        if not JournalReader(journal).exists:
            msg = f"{journal} exists and is not a journal, so it is not replaced; move it away"
            raise TraceExistsError(msg)
        shutil.rmtree(journal)


def _refuse_live(path: Location, journal: Path) -> None:
    writer = live_writer(journal)
    if writer is not None:
        msg = (
            f"{path} is being written by a training that is still running (process {writer}); "
            "choose another path"
        )
        raise TraceExistsError(msg)
    if is_being_moved(journal):
        msg = f"{path} is still being finished by its recorder; wait for it, or choose another path"
        raise TraceExistsError(msg)


def _refuse_elsewhere(path: Location, journal: Path, attributes: TraceAttributes) -> None:
    """Refuse what another machine may be recording: its locks are there, and cannot be seen."""
    if isinstance(path, Remote) and attributes.status == "recording" and not journal.exists():
        msg = (
            f"{path} has the status 'recording' and no journal on this machine, so a training on "
            "another one may be writing it; choose another path, or delete it with a tool of the "
            "object store if that training is dead"
        )
        raise TraceExistsError(msg)


def read_nodes(path: Location, *, copied: bool = True) -> dict[str, Any]:
    """Read the metadata of the groups and arrays below the root of the trace at `path`.

    Parameters
    ----------
    path
        The trace.
    copied
        Take them from their copy in the root, where there is one that can be trusted.

    Returns
    -------
    dict
        Path of a group or array to its metadata, as JSON values.

    Raises
    ------
    NotATraceError
        If there is no trace at `path`.
    UnsupportedVersionError
        If it is of another major version.
    DamagedTraceError
        If they cannot be understood.
    """
    _, content, root = _read_root(path)
    try:
        copy = root.get(CONSOLIDATED)
        if copied and copy is not None and not is_changed(content, root):
            return checked_nodes(path, copy["metadata"])
        names = [name for name in metadata_files(path) if name != METADATA_FILE]
        found = read_files(path, names).items()
        return checked_nodes(
            path, {name.removesuffix(f"/{METADATA_FILE}"): parse_json(text) for name, text in found}
        )
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, AttributeError, TypeError) as error:
        raise not_understood(path, error) from error


def checked_nodes(path: Location, nodes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of groups and arrays if they are such, under names inside of the trace.

    Raises
    ------
    ValueError
        If they are not.
    DamagedTraceError
        If a name leaves the trace.
    """
    for key, fields in nodes.items():
        inside(path, key)
        kind = fields.get("node_type") if isinstance(fields, dict) else fields
        if kind not in ("array", "group"):
            msg = f"'{key}' is {kind!r:.80}, neither an array nor a group"
            raise ValueError(msg)
    return dict(nodes)


def not_understood(path: Location, error: Exception) -> DamagedTraceError:
    """Return the error for a trace whose metadata Zarr or xarray cannot read."""
    return DamagedTraceError(
        f"{path}: the metadata cannot be read ({type(error).__name__}: {error}); copy the trace "
        "again; 'steptrace validate' names the file"
    )
