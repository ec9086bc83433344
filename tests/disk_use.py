"""How much disk a trace takes, at every moment."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from steptrace_schema.journal.where import journal_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CHANGES = ("open", "os.rename", "os.remove", "os.link")


def taken(store: Path) -> int:
    """Return the bytes of all files of a trace, store and journal together."""
    total = 0
    for folder in (store, journal_path(store)):
        for root, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    total += os.stat(os.path.join(root, name)).st_size  # noqa: PTH116, PTH118
    return total


class DiskUse:
    """The most that a trace has taken, looked at between all file operations of this process."""

    def __init__(self, store: Path) -> None:
        self.most = 0
        self.looks = 0
        self._store = store
        self._prefix = str(store)
        self._looking = False
        self.watching = False

    def look(self) -> None:
        """Measure now."""
        self.most = max(self.most, taken(self._store))
        self.looks += 1

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        """Measure before a file operation on the trace, thus after the one before it."""
        if not self.watching or self._looking or event not in _CHANGES:
            return
        if isinstance(args[0], int) or not str(args[0]).startswith(self._prefix):
            return
        if event == "open" and not (int(args[2]) & (os.O_WRONLY | os.O_RDWR)):
            return
        self._looking = True
        try:
            self.look()
        finally:
            self._looking = False


@contextlib.contextmanager
def watching(store: Path) -> Iterator[DiskUse]:
    """Watch what a trace takes while the context lasts."""
    use = DiskUse(store)
    sys.addaudithook(use.hook)  # which cannot be taken away again
    use.watching = True
    try:
        yield use
    finally:
        use.watching = False
        use.look()
