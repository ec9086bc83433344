"""A recording between two of many short fits, which is finished unless another one follows soon.

To finish a trace takes longer than a fit of one batch, of which reinforcement learning does many.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from steptrace_tracer.session.session import Session

REST_SECONDS: Final = 2.0
"""How long a recording waits for the next fit."""
_FINISHED_AT_ONCE: Final = 2
"""How many fits of a tracer are finished as they end, however short they are."""
_SHORT_SECONDS: Final = 5.0


class Rest:
    """Finishes a recording after a while, when the program ends, or when it is asked to.

    Parameters
    ----------
    session
        The recording.
    step
        Number of the step that would follow.
    """

    def __init__(self, session: Session, step: int) -> None:
        self._session = session
        self._step = step
        self._lock = threading.Lock()
        self._over = False
        self._process = os.getpid()
        self._timer = threading.Timer(REST_SECONDS, self.finish)
        self._timer.daemon = True
        atexit.register(self.finish)
        self._timer.start()

    def wake(self) -> bool:
        """Have the recording continue; return whether it does, rather than being finished."""
        with self._lock:
            woken = not self._over and self._session.active
            self._end()
            return woken

    def finish(self) -> None:
        """Finish the recording, if that has not been done."""
        with self._lock:
            # The end of a process that the training forked is not the training's.
            if self._over or os.getpid() != self._process:
                return
            self._end()
            self._session.complete(self._step)

    def _end(self) -> None:
        self._over = True
        self._timer.cancel()
        atexit.unregister(self.finish)


class FitEnds:
    """Decides whether the recording of a fit is finished as the fit ends, or rests."""

    def __init__(self) -> None:
        self._fits = 0
        self._began = 0.0
        self._rest: Rest | None = None
        self._left: Session | None = None

    def begin(self, *, may_continue: bool) -> bool:
        """Note that a fit begins; return whether the recording of the last one continues in it.

        Parameters
        ----------
        may_continue
            Whether Keras does the same compiled step in it as in the last one.
        """
        self._began = time.monotonic()
        rest, self._rest = self._rest, None
        if rest is None:
            return False
        if may_continue and rest.wake():
            return True
        rest.finish()
        return False

    def end(self, session: Session, step: int) -> None:
        """Finish the recording before `step`, or have it rest after one of many short fits."""
        self._fits += 1
        is_short = time.monotonic() - self._began < _SHORT_SECONDS
        if self._fits > _FINISHED_AT_ONCE and is_short and session.active:
            self._rest = Rest(session, step)
        else:
            session.complete(step)

    def leave(self, session: Session, step: int) -> None:
        """Note that a fit has ended before `step`, and that callbacks are left to run."""
        session.left_at, self._left = step, session

    def close(self) -> None:
        """Finish a recording that rests, or whose fit ended in a callback that failed."""
        if self._left is not None and self._left.left_at is not None:
            self._left.abandon()
        rest, self._rest = self._rest, None
        if rest is not None:
            rest.finish()
