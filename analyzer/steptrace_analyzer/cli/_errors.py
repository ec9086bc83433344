"""How the command line ends: one sentence for what went wrong, and an exit status."""

from __future__ import annotations

import dataclasses
import sys
import traceback
from typing import TYPE_CHECKING, Final

from steptrace_analyzer.text import one_line
from steptrace_schema.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Callable

TROUBLE: Final = 2
_LONGEST: Final = 2000
_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells report it


@dataclasses.dataclass
class Settings:
    """Global options."""

    debug: bool = False


def guarded(command: Callable[[], object], settings: Settings) -> int:
    """Run `command` and return the exit status; what it raises becomes one line on stderr."""
    try:
        command()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else (TROUBLE if end.code else 0)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except TraceError as error:
        return _report(str(error), settings)
    except OSError as error:  # a full disk, a folder that may not be read: its text says which
        return _report(str(error), settings)
    except Exception as error:  # the last line of defence: whatever it is, one sentence
        text = f"unexpected {type(error).__name__}: {error}"
        hint = "" if settings.debug else " ('steptrace --debug ...' shows where it comes from)"
        return _report(text + hint, settings)
    return 0


def _report(message: str, settings: Settings) -> int:
    if settings.debug:
        traceback.print_exc(file=sys.stderr)
    sys.stderr.write(f"error: {one_line(' '.join(message.split()), _LONGEST)}\n")
    return TROUBLE
