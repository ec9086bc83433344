"""The files of a journal's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from steptrace_schema.journal.pending import RECORD_SUFFIX
from steptrace_schema.storage.locks import MOVER, WRITER

if TYPE_CHECKING:
    from pathlib import Path

    from steptrace_schema.storage.durability import Persistence


DECLARATION_FILE: Final = "declaration.json"


CLOSED_FILE: Final = "closed.json"


STOPPED_FILE: Final = "stopped.txt"


NOTED_FILE: Final = "noted.json"


BALLAST_FILE: Final = "ballast"


RECORDER_LOG: Final = "recorder.log"
"""What the recorder process said."""


def write_atomically(path: Path, text: str, lasting: Persistence) -> None:
    """Write a file that afterwards is the old or the new one, whatever happens meanwhile."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    lasting.file(temporary)
    temporary.replace(path)
    lasting.names(path.parent)


def is_of_a_journal(name: str) -> bool:
    """Whether a file of this name may be in the folder of a journal."""
    known = (
        DECLARATION_FILE,
        CLOSED_FILE,
        STOPPED_FILE,
        NOTED_FILE,
        BALLAST_FILE,
        RECORDER_LOG,
        MOVER,
        WRITER,
    )
    return name in known or name.endswith((RECORD_SUFFIX, ".partial")) or name.startswith(".tmp")
