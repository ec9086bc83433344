"""Files of a journal that hold arrays of the trace as a whole, beside the records of its steps."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from steptrace_schema.format.paths import is_portable_path
from steptrace_schema.journal.place import MemoryPlace
from steptrace_schema.journal.record_file import read_header, write_record_file
from steptrace_schema.storage.names import open_to_read
from steptrace_schema.storage.posix import read_exactly

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from steptrace_schema.storage.durability import Persistence


def write_whole_file(
    path: Path,
    arrays: Mapping[str, npt.NDArray[Any]],
    metadata: Mapping[str, str],
    lasting: Persistence,
) -> None:
    """Write a file into the folder of a journal: as a whole, or not at all.

    Parameters
    ----------
    path
        Where to.
    arrays
        Path to array.
    metadata
        What is said of them, by name.
    lasting
        What the file survives.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        write_record_file(temporary, arrays, dict(metadata))
        lasting.file(temporary)
        temporary.replace(path)
        lasting.names(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)  # on a full disk, the room is needed
        raise


def read_whole_file(path: Path) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
    """Return what such a file says of its arrays, and the arrays.

    Raises
    ------
    OSError, KeyError, ValueError
        If it is not what :func:`write_whole_file` makes.
    """
    place = _in_memory(path)
    metadata, stored = read_header(place)
    arrays = {}
    for name, found in stored.items():
        inside = any(str(parent) in stored for parent in PurePosixPath(name).parents)
        if not is_portable_path(name) or inside:
            msg = f"'{name}' is no path of an array"
            raise ValueError(msg)
        part = place.content[found.begin : found.begin + found.nbytes]
        arrays[name] = np.frombuffer(part, found.dtype).reshape(found.shape)
    return metadata, arrays


def _in_memory(path: Path) -> MemoryPlace:
    descriptor = open_to_read(path)
    try:
        content = memoryview(bytearray(os.fstat(descriptor).st_size))
        read_exactly(descriptor, 0, content)
    finally:
        os.close(descriptor)
    return MemoryPlace(path, 0, None, content)
