"""Moving a journal into a store that may be out of reach for a while."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

from steptrace_schema.errors import UnreachableError
from steptrace_schema.moving.journal_mover import JournalMover, all_cores
from steptrace_schema.storage.object_store import object_store_errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from steptrace_schema.names import Status
    from steptrace_schema.storage.location import Location

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
GIVE_UP_SECONDS: Final = 600.0
"""How long a run that has ended waits for its store, before it is left to ``steptrace recover``."""


class RetryingMover:
    """Moves records, and tries again after a pause, each twice as long, when it cannot.

    Moving the same records again writes the same bytes, so it starts again after any failure.

    Parameters
    ----------
    journal, store
        Where from, and where to.
    clock, sleep
        Seconds that pass, and how to let them pass.
    """

    def __init__(
        self,
        journal: Path,
        store: Location,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._journal = journal
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._mover: JournalMover | None = None
        self._pause = FIRST_PAUSE
        self._not_before = 0.0

    def move_ready(self, stop: Callable[[], bool]) -> None:
        """Move what is ready until `stop` says so, unless it is not yet time to try again."""
        if self._clock() >= self._not_before:
            self._try(lambda mover: mover.move_ready(stop))

    def finish(self, status: Status, reason: str | None) -> None:
        """Move what is left, on all cores, and finish the store; the caller waits.

        Raises
        ------
        UnreachableError
            If the store was out of reach for ten minutes.
        """
        give_up = self._clock() + GIVE_UP_SECONDS

        def end(mover: JournalMover) -> None:
            mover.workers = all_cores()
            mover.finish(status, reason)

        while (error := self._try(end)) is not None:
            if self._clock() >= give_up:
                raise error
            self._sleep(max(0.0, self._not_before - self._clock()))

    def _try(self, action: Callable[[JournalMover], object]) -> UnreachableError | None:
        try:
            with object_store_errors(self._store):
                if self._mover is None:
                    # The machine has been running since the first record was written.
                    self._mover = JournalMover(self._journal, self._store, checks=False)
                action(self._mover)
        except UnreachableError as error:
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
            self._mover = None  # what it knows of the store may not be so
            self._not_before = self._clock() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            return error
        self._pause = FIRST_PAUSE
        return None
