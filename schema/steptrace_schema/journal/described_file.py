"""Arrays with what is said of them, on their way to the store: one file of a journal each.

They are the steps that are kept as a whole, and the weights that a model ends with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import ValidationError

from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.format.attributes import FinalWeights, Incident
from steptrace_schema.journal.pending import INCIDENT_SUFFIX
from steptrace_schema.journal.record_file import record_file_bytes
from steptrace_schema.journal.whole_file import read_whole_file, write_whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from steptrace_schema.storage.durability import Persistence

Said = TypeVar("Said", Incident, FinalWeights)
"""What is said of arrays."""

_NAMES: Final[dict[type, tuple[str, str]]] = {
    Incident: ("incident", "a step that is kept as a whole"),
    FinalWeights: ("final", "the weights that a model ended with"),
}
"""The name that each has in a file, and in a sentence."""


def described_bytes(said: Incident | FinalWeights, arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """Return the bytes of the file that :func:`write_described` makes."""
    return record_file_bytes(arrays, _metadata(said))


def write_described(
    path: Path,
    said: Incident | FinalWeights,
    arrays: Mapping[str, npt.NDArray[Any]],
    lasting: Persistence,
) -> None:
    """Write arrays with what is said of them: as a whole, or not at all.

    Parameters
    ----------
    path
        Where to: :func:`incident_path`, or ``FINAL_FILE`` in the folder of a journal.
    said
        What is said of them.
    arrays
        Path below the incident's group, or inside the kind ``weights``, to array.
    lasting
        What the file survives.
    """
    write_whole_file(path, arrays, _metadata(said), lasting)


def read_described(path: Path, kind: type[Said]) -> tuple[Said, dict[str, npt.NDArray[Any]]]:
    """Return what is said of the arrays of a file, and the arrays.

    Raises
    ------
    DamagedTraceError
        If the file is not what :func:`write_described` makes of this kind.
    """
    name, what = _NAMES[kind]
    try:
        metadata, arrays = read_whole_file(path)
        said = kind.model_validate_json(metadata[name])
        if set(said.arrays) != set(arrays):
            msg = "it has other arrays than it says"
            raise ValueError(msg)
    except (OSError, KeyError, ValueError, ValidationError) as error:
        msg = (
            f"{path} does not hold {what} ({error}); move it away, and the rest of the journal is "
            "moved into the store"
        )
        raise DamagedTraceError(msg) from error
    return said, arrays


def incident_path(directory: Path, step: int) -> Path:
    """Return where a journal has a step that is kept as a whole."""
    return directory / f"{step:08d}{INCIDENT_SUFFIX}"


def incident_paths(directory: Path) -> list[Path]:
    """Return the files of a journal with steps that are kept as a whole, in their order."""
    return sorted(path for path in directory.iterdir() if path.name.endswith(INCIDENT_SUFFIX))


def _metadata(said: Incident | FinalWeights) -> dict[str, str]:
    return {_NAMES[type(said)][0]: said.model_dump_json()}
