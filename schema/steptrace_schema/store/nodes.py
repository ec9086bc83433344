"""The groups and arrays of a store that is being written."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from steptrace_schema.encoding.array_metadata import ArrayMetadata
from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.format.json_text import metadata_json, parse_json
from steptrace_schema.names import METADATA_FILE
from steptrace_schema.storage.contents import metadata_files, read_files
from steptrace_schema.store.node_metadata import GROUP

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steptrace_schema.storage.files import Files
    from steptrace_schema.storage.location import Location


class Nodes:
    """Makes and changes groups and arrays, and remembers their metadata.

    A store has one writer, so what it has read or written once is what is there.

    Parameters
    ----------
    files
        The files of the store.
    metadata
        The metadata of what is there, by path.
    """

    def __init__(self, files: Files, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        self.files = files
        self._metadata = dict(metadata)

    @property
    def metadata(self) -> Mapping[str, Mapping[str, Any]]:
        """The metadata of all groups and arrays below the root, by path."""
        return self._metadata

    def create(self, key: str, metadata: Mapping[str, Any]) -> None:
        """Make an array, and before it the groups above it, from the root down.

        A crash in between then never leaves an array that no listing of groups finds.
        """
        for parent in map(str, reversed(PurePosixPath(key).parents[:-1])):
            if parent not in self._metadata:
                self._write(parent, GROUP)
        self._write(key, metadata)

    def update(self, key: str, **fields: Any) -> None:
        """Change fields of the metadata of an array."""
        self._write(key, {**self._metadata[key], **fields})

    def _write(self, key: str, metadata: Mapping[str, Any]) -> None:
        # Replaced as a whole, because readers list groups during a run.
        self.files.replace(f"{key}/{METADATA_FILE}", [metadata_json(metadata)])
        self._metadata[key] = metadata


def read_metadata(location: Location) -> dict[str, dict[str, Any]]:
    """Return the metadata of all groups and arrays below the root of a store, by path.

    Raises
    ------
    DamagedTraceError
        If one cannot be read.
    """
    names = [name for name in metadata_files(location) if name != METADATA_FILE]
    try:
        contents = read_files(location, names)
    except ValueError as error:
        msg = f"{location}: a {METADATA_FILE} cannot be read ({error}); copy the trace again"
        raise DamagedTraceError(msg) from error
    found = {}
    for name, content in contents.items():
        key = name.removesuffix(f"/{METADATA_FILE}")
        try:
            found[key] = _checked(key, parse_json(content))
        except ValueError as error:
            msg = (
                f"{location}/{name} is not valid JSON of a group or array ({error}); copy the "
                "trace again; 'steptrace validate' lists all that is damaged"
            )
            raise DamagedTraceError(msg) from error
    return found


def _checked(key: str, fields: Any) -> dict[str, Any]:
    """Return the metadata of a group, or those of an array that a trace can have."""
    if not isinstance(fields, dict):
        msg = f"{fields!r:.80} are no metadata"
        raise ValueError(msg)
    if fields.get("node_type") != "group":
        ArrayMetadata.parse(key, fields)
    return fields
