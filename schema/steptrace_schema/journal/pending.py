"""How much of a journal waits to be moved."""

from __future__ import annotations

import dataclasses
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

RECORD_SUFFIX: Final = ".safetensors"
"""File name ending of a record."""


@dataclasses.dataclass(frozen=True)
class Pending:
    """Records that are not yet in the store: how many, and the bytes of their files."""

    records: int
    nbytes: int


class PendingRecords:
    """Looks again and again at what waits in a journal.

    The size of a record never changes, so it is asked for once: that takes several times as long
    as to see that the record is there.

    Parameters
    ----------
    directory
        Folder of the journal, which may be gone.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sizes: dict[str, int] = {}

    def look(self) -> Pending:
        """Return what waits now."""
        known, self._sizes = self._sizes, {}
        with suppress(FileNotFoundError):  # the recorder has just finished
            for name in os.listdir(self._directory):  # noqa: PTH208
                if name.endswith(RECORD_SUFFIX):
                    with suppress(FileNotFoundError):  # the recorder has just moved it
                        self._sizes[name] = known.get(name) or self._size(name)
        return Pending(len(self._sizes), sum(self._sizes.values()))

    def _size(self, name: str) -> int:
        return os.stat(f"{self._directory}/{name}").st_size  # noqa: PTH116
