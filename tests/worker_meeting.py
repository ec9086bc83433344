"""A pool of processes that shows that more than one of them works."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

VARIABLE: Final = "STEPTRACE_WORKER_MEETING"
"""Environment variable with the folder in which workers meet."""


class MeetingPool(ProcessPoolExecutor):
    """Has every task wait until two processes have one each: a single one would wait in vain."""

    def submit(self, task: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit `task`, to be done after the meeting."""
        return super().submit(_after_meeting, task, *args, **kwargs)


def _after_meeting(task: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    folder = Path(os.environ[VARIABLE])
    (folder / str(os.getpid())).touch()
    end = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2:
        assert time.monotonic() < end, "all tasks went to one process"
        time.sleep(0.005)
    return task(*args, **kwargs)
