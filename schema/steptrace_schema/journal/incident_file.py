"""Steps that are kept as a whole, on their way to the store: one file of a journal each."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.format.attributes import Incident
from steptrace_schema.format.paths import is_portable_path
from steptrace_schema.journal.pending import INCIDENT_SUFFIX
from steptrace_schema.journal.place import MemoryPlace
from steptrace_schema.journal.record_file import read_header, record_file_bytes, write_record_file
from steptrace_schema.storage.names import open_to_read
from steptrace_schema.storage.posix import read_exactly

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from steptrace_schema.storage.durability import Persistence

_SAID: Final = "incident"


def incident_file_bytes(incident: Incident, arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """Return the bytes of the file that :func:`write_incident` makes."""
    return record_file_bytes(arrays, _metadata(incident))


def write_incident(
    directory: Path,
    incident: Incident,
    arrays: Mapping[str, npt.NDArray[Any]],
    lasting: Persistence,
) -> None:
    """Write a step into the folder of a journal: as a whole, or not at all.

    Parameters
    ----------
    directory
        The journal.
    incident
        What is said of the step.
    arrays
        Path below the incident's group to array.
    lasting
        What the file survives.
    """
    path = directory / f"{incident.step:08d}{INCIDENT_SUFFIX}"
    temporary = path.with_name(path.name + ".partial")
    try:
        write_record_file(temporary, arrays, _metadata(incident))
        lasting.file(temporary)
        temporary.replace(path)
        lasting.names(directory)
    except BaseException:
        temporary.unlink(missing_ok=True)  # on a full disk, the room is needed
        raise


def incident_paths(directory: Path) -> list[Path]:
    """Return the files of a journal with steps that are kept as a whole, in their order."""
    return sorted(path for path in directory.iterdir() if path.name.endswith(INCIDENT_SUFFIX))


def read_incident(path: Path) -> tuple[Incident, dict[str, npt.NDArray[Any]]]:
    """Return what is said of a step that is kept as a whole, and its arrays.

    Raises
    ------
    DamagedTraceError
        If the file is not what :func:`write_incident` makes.
    """
    try:
        place = _in_memory(path)
        metadata, stored = read_header(place)
        incident = Incident.model_validate_json(metadata[_SAID])
        arrays = {}
        for name, found in stored.items():
            inside = any(str(parent) in stored for parent in PurePosixPath(name).parents)
            if not is_portable_path(name) or inside:
                msg = f"'{name}' is no path of an array"
                raise ValueError(msg)
            part = place.content[found.begin : found.begin + found.nbytes]
            arrays[name] = np.frombuffer(part, found.dtype).reshape(found.shape)
    except (OSError, KeyError, ValueError, ValidationError) as error:
        msg = (
            f"{path} is not a whole step that was kept ({error}); move it away, and the rest of "
            "the journal is moved into the store"
        )
        raise DamagedTraceError(msg) from error
    return incident, arrays


def _in_memory(path: Path) -> MemoryPlace:
    descriptor = open_to_read(path)
    try:
        content = memoryview(bytearray(os.fstat(descriptor).st_size))
        read_exactly(descriptor, 0, content)
    finally:
        os.close(descriptor)
    return MemoryPlace(path, 0, None, content)


def _metadata(incident: Incident) -> dict[str, str]:
    return {_SAID: incident.model_dump_json()}
