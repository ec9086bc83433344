"""Records that are laid out alike, whose small arrays are read at once.

Of a small model, to ask each record for each of its arrays takes longer than all else.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.journal.record_file import HEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from steptrace_schema.journal.record import Record


class RecordsAlike:
    """Records with the same arrays in the same places.

    Parameters
    ----------
    records
        In the order of their rows.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._layout = records[0].layout

    @classmethod
    def of(cls, records: Sequence[Record]) -> RecordsAlike | None:
        """Return records together if they are laid out alike, as those of a ring mostly are."""
        first = records[0].layout
        # What was read from the same bytes is the same object.
        return cls(records) if all(record.layout is first for record in records) else None

    def read_rows(self, key: str, rows: npt.NDArray[Any]) -> bool:
        """Read an array of each record into a row; return False where it is not small, or alike.

        Parameters
        ----------
        key
            ``kind/path`` of the array.
        rows
            Contiguous, dims (record, ...).
        """
        stored = self._layout.get(key)
        if (
            stored is None
            or stored.shape != rows.shape[1:]
            or stored.dtype != rows.dtype
            or not stored.nbytes
            or stored.begin + stored.nbytes > HEAD_BYTES
        ):
            return False
        target = rows.reshape(len(rows), -1).view(np.uint8)
        target[:] = self._heads[:, stored.begin : stored.begin + stored.nbytes]
        return True

    @functools.cached_property
    def _heads(self) -> npt.NDArray[np.uint8]:
        ends = (stored.begin + stored.nbytes for stored in self._layout.values())
        heads = np.empty((len(self._records), max(e for e in ends if e <= HEAD_BYTES)), np.uint8)
        for head, record in zip(heads, self._records, strict=True):
            record.read_bytes(0, head.data)
        return heads
