"""The files of a journal's folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from steptrace_schema.format.json_text import MOST_BYTES
from steptrace_schema.journal.pending import FINAL_FILE, INCIDENT_SUFFIX, RECORD_SUFFIX
from steptrace_schema.journal.ring import RING_FILE
from steptrace_schema.storage.locks import MOVER, WRITER
from steptrace_schema.storage.names import open_to_read, open_to_write

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
    with os.fdopen(open_to_write(temporary), "w", encoding="utf-8") as file:
        file.write(text)
    lasting.file(temporary)
    temporary.replace(path)
    lasting.names(path.parent)


def read_text(path: Path) -> str:
    """Return the text of a small file of a journal.

    Raises
    ------
    ValueError
        If it is no text in UTF-8, no regular file, or longer than any of a journal.
    FileNotFoundError
        If there is none.
    """
    with os.fdopen(open_to_read(path), "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        msg = f"it has more than {MOST_BYTES} bytes"
        raise ValueError(msg)
    return content.decode()


def is_of_a_journal(name: str) -> bool:
    """Whether a file of this name may be in the folder of a journal."""
    known = (
        DECLARATION_FILE,
        CLOSED_FILE,
        STOPPED_FILE,
        NOTED_FILE,
        BALLAST_FILE,
        RECORDER_LOG,
        RING_FILE,
        FINAL_FILE,
        MOVER,
        WRITER,
    )
    endings = (RECORD_SUFFIX, INCIDENT_SUFFIX, ".partial")
    return name in known or name.endswith(endings) or name.startswith(".tmp")
