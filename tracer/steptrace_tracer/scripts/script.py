"""Running a user's program in this process, as Python itself would run it."""

from __future__ import annotations

import dataclasses
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from steptrace_schema.errors import TraceError

if TYPE_CHECKING:
    from types import TracebackType


@dataclasses.dataclass(frozen=True)
class Script:
    """A program: a file, or a module as ``python -m`` takes it.

    Attributes
    ----------
    name
        Path of the file, or dotted name of the module.
    arguments
        What it finds in ``sys.argv`` behind its own name.
    is_module
        Whether `name` is that of a module.
    """

    name: str
    arguments: tuple[str, ...] = ()
    is_module: bool = False

    def __str__(self) -> str:
        """Return the program as it is written behind ``python``."""
        return " ".join([*(["-m"] if self.is_module else []), self.name, *self.arguments])

    def check(self) -> None:
        """Raise a TraceError unless there is a file to run; a module is looked for when it runs."""
        if not self.is_module and not Path(self.name).is_file():
            msg = f"{self.name} is not a file; give the training script, or -m and a module"
            raise TraceError(msg)

    def run(self) -> int:
        """Run it as ``__main__`` and return the exit status that Python would end with.

        ``sys.argv`` and the first entry of ``sys.path`` are the program's while it runs. An
        exception is printed with its traceback, as Python does.

        Raises
        ------
        TraceError
            If that is what ends the program: it is the tracer's, not the program's.
        KeyboardInterrupt
            If the program is interrupted.
        """
        self.check()
        arguments, path = sys.argv, list(sys.path)
        sys.argv = [self.name, *self.arguments]
        sys.path[0] = str(Path.cwd() if self.is_module else Path(self.name).resolve().parent)
        try:
            if self.is_module:
                runpy.run_module(self.name, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(self.name, run_name="__main__")
        except SystemExit as end:
            return _exit_status(end)
        except (TraceError, KeyboardInterrupt):
            raise
        except Exception as error:
            own = error.with_traceback(_below_runpy(error.__traceback__))
            sys.excepthook(type(own), own, own.__traceback__)
            return 1
        finally:
            sys.argv, sys.path[:] = arguments, path
        return 0


def _exit_status(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    sys.stderr.write(f"{end.code}\n")
    return 1


def _below_runpy(traceback: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that is the program's own; all of it if it never began."""
    frame, found = traceback, None
    while frame is not None:
        if "runpy" in frame.tb_frame.f_code.co_filename:
            found = frame
        frame = frame.tb_next
    return found.tb_next if found is not None and found.tb_next is not None else traceback
