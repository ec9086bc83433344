"""One step of a journal, read from its place."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.journal.record_file import (
    HEAD_BYTES,
    read_header,
)
from steptrace_schema.names import STEP

if TYPE_CHECKING:
    from collections.abc import Set
    from pathlib import Path

    import numpy.typing as npt

    from steptrace_schema.journal.place import Place


class Record:
    """One step of a journal, read when an array is asked for.

    It has to be in its place until the first array is asked for.

    Parameters
    ----------
    place
        Where its bytes are.

    Attributes
    ----------
    layout
        Key to where the array is; the same object for records that say the same of it.

    Raises
    ------
    DamagedTraceError
        If they are no record.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.path = place.path
        self.index = place.index
        try:
            self.nbytes = place.nbytes
            metadata, self.layout = read_header(place)
            self.step = step_number(metadata[STEP]) if place.step is None else place.step
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise unreadable(self.path, error) from error
        place.rest()  # many records may wait, and few files be open at a time
        self.keys: Set[str] = self.layout.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of the array ``kind/path`` of this step."""
        return self.layout[key].shape

    def is_of(self, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        """Whether the array ``kind/path`` of this step has this shape and type."""
        stored = self.layout[key]
        return stored.shape == shape and stored.dtype == dtype

    def dtype(self, key: str) -> np.dtype[Any]:
        """Return the element type of the array ``kind/path`` of this step."""
        return self.layout[key].dtype

    def read(self, key: str) -> npt.NDArray[Any]:
        """Return the array ``kind/path`` of this step."""
        stored = self.layout[key]
        array = np.empty(stored.shape, stored.dtype)
        self.read_bytes(stored.begin, array.reshape(-1).view(np.uint8).data)
        return array

    def read_into(self, key: str, array: npt.NDArray[Any]) -> None:
        """Read the array ``kind/path`` of this step into a contiguous one of its shape and type.

        For one who reads all arrays: the small ones are read together, and kept.
        """
        stored = self.layout[key]
        target = array.reshape(-1).view(np.uint8).data
        if stored.begin + len(target) <= HEAD_BYTES:
            target[:] = self._head[stored.begin : stored.begin + len(target)]
        else:
            self.read_bytes(stored.begin, target)

    @functools.cached_property
    def _head(self) -> memoryview:
        ends = (stored.begin + stored.nbytes for stored in self.layout.values())
        head = memoryview(bytearray(max(end for end in ends if end <= HEAD_BYTES)))
        self.read_bytes(0, head)
        return head

    def read_bytes(self, begin: int, target: memoryview) -> None:
        """Fill `target` with the bytes of this step from position `begin` on."""
        try:
            self.place.read(begin, target)
        except (FileNotFoundError, ValueError) as error:
            raise unreadable(self.path, error) from error


def step_number(text: str) -> int:
    """Return the number of a step from the metadata of a record.

    Raises
    ------
    ValueError
        If it is none.
    """
    if re.fullmatch(r"\d{1,18}", text, re.ASCII):
        return int(text)
    msg = f"{text!r:.80} is no number of a step"
    raise ValueError(msg)


def unreadable(path: Path, error: Exception) -> DamagedTraceError:
    """Return the error for what is no record."""
    return DamagedTraceError(
        f"{path} is not a readable journal record ({error}); move it away and run "
        "'steptrace recover' to keep the steps before and after it"
    )
