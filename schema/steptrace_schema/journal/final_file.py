"""The weights that a model ends with, on their way to the store: one file of a journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.format.attributes import FinalWeights
from steptrace_schema.journal.pending import FINAL_FILE
from steptrace_schema.journal.record_file import record_file_bytes
from steptrace_schema.journal.whole_file import read_whole_file, write_whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from steptrace_schema.storage.durability import Persistence

_SAID: Final = "final"


def final_file_bytes(final: FinalWeights, arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """Return the bytes of the file that :func:`write_final` makes."""
    return record_file_bytes(arrays, _metadata(final))


def write_final(
    directory: Path,
    final: FinalWeights,
    arrays: Mapping[str, npt.NDArray[Any]],
    lasting: Persistence,
) -> None:
    """Write the weights that a model ends with into the folder of a journal, or nothing of them.

    Parameters
    ----------
    directory
        The journal.
    final
        What is said of them.
    arrays
        Path inside the kind ``weights`` to array.
    lasting
        What the file survives.
    """
    write_whole_file(directory / FINAL_FILE, arrays, _metadata(final), lasting)


def read_final(directory: Path) -> tuple[FinalWeights, dict[str, npt.NDArray[Any]]] | None:
    """Return the weights that a model ends with; None where the journal has none.

    Raises
    ------
    DamagedTraceError
        If the file is not what :func:`write_final` makes.
    """
    path = directory / FINAL_FILE
    if not path.exists():
        return None
    try:
        metadata, arrays = read_whole_file(path)
        final = FinalWeights.model_validate_json(metadata[_SAID])
        if set(final.arrays) != set(arrays):
            msg = "it has other arrays than it says"
            raise ValueError(msg)
    except (OSError, KeyError, ValueError, ValidationError) as error:
        msg = (
            f"{path} does not hold the weights that a model ended with ({error}); move it away, "
            "and the rest of the journal is moved into the store"
        )
        raise DamagedTraceError(msg) from error
    return final, arrays


def _metadata(final: FinalWeights) -> dict[str, str]:
    return {_SAID: final.model_dump_json()}
