"""Steps that are kept as a whole, on their way to the store: one file of a journal each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.format.attributes import Incident
from steptrace_schema.journal.pending import INCIDENT_SUFFIX
from steptrace_schema.journal.record_file import record_file_bytes
from steptrace_schema.journal.whole_file import read_whole_file, write_whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

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
    write_whole_file(path, arrays, _metadata(incident), lasting)


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
        metadata, arrays = read_whole_file(path)
        incident = Incident.model_validate_json(metadata[_SAID])
    except (OSError, KeyError, ValueError, ValidationError) as error:
        msg = (
            f"{path} is not a whole step that was kept ({error}); move it away, and the rest of "
            "the journal is moved into the store"
        )
        raise DamagedTraceError(msg) from error
    return incident, arrays


def _metadata(incident: Incident) -> dict[str, str]:
    return {_SAID: incident.model_dump_json()}
