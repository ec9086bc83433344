"""Records that are laid out alike, whose small arrays are read at once.

Of a small model, to ask each record for each of its arrays takes longer than all else.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.journal.record_file import HEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from steptrace_schema.journal.record import Record
    from steptrace_schema.journal.record_file import StoredArray


class SmallArrays:
    """The small arrays of records, of which most are laid out like others.

    Parameters
    ----------
    records
        In the order of their rows.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        numbers: dict[int, list[int]] = defaultdict(list)
        for number, record in enumerate(records):
            # What was read from the same bytes is the same object.
            numbers[id(record.layout)].append(number)
        self._alike = [alike for alike in numbers.values() if len(alike) > 1]
        self._heads: dict[int, npt.NDArray[np.uint8]] = {}

    def read_rows(self, key: str, rows: npt.NDArray[Any]) -> list[int]:
        """Read an array of records into their rows; return the rows that were read.

        The others are those of records that have no such array, or none of the shape and type of
        the rows, whose array is not small, or that are laid out like no other.

        Parameters
        ----------
        key
            ``kind/path`` of the array.
        rows
            Contiguous, dims (record, ...).
        """
        read = []
        for numbers in self._alike:
            stored = self._records[numbers[0]].layout.get(key)
            if (
                stored is None
                or stored.shape != rows.shape[1:]
                or stored.dtype != rows.dtype
                or not stored.nbytes
                or stored.begin + stored.nbytes > HEAD_BYTES
            ):
                continue
            target = rows.reshape(len(rows), -1).view(np.uint8)
            target[numbers] = self._heads_of(numbers)[:, stored.begin : _end(stored)]
            read += numbers
        return read

    def _heads_of(self, numbers: list[int]) -> npt.NDArray[np.uint8]:
        """Return the first bytes of records that are laid out alike, dims (record, byte)."""
        if (found := self._heads.get(numbers[0])) is not None:
            return found
        ends = map(_end, self._records[numbers[0]].layout.values())
        heads = np.empty((len(numbers), max(end for end in ends if end <= HEAD_BYTES)), np.uint8)
        for head, number in zip(heads, numbers, strict=True):
            self._records[number].read_bytes(0, head.data)
        self._heads[numbers[0]] = heads
        return heads


def _end(stored: StoredArray) -> int:
    return stored.begin + stored.nbytes
