"""Writing what stands beside the records into the journal, while there is room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from steptrace_schema.human import human_bytes
from steptrace_schema.journal.described_file import described_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from steptrace_schema.journal.writer import JournalWriter
    from steptrace_tracer.record.journal_room import JournalRoom
    from steptrace_tracer.record.pending_step import KeptFinal, KeptStep

_NO_ROOM: Final = (
    "what broke at this step is not kept as a whole: its {} have no room in the journal"
)
_FINAL_NO_ROOM: Final = "their {} have no room in the journal"


def keep_steps(
    journal: JournalWriter, room: JournalRoom | None, steps: Iterable[KeptStep]
) -> dict[int, str]:
    """Write steps as a whole; return for each that has no room the sentence that says so.

    Parameters
    ----------
    journal
        Where to.
    room
        What the policy's limit leaves; None without one.
    steps
        What is kept.
    """
    refused = {}
    for kept in steps:
        size = described_bytes(kept.incident, kept.arrays)
        if room is not None and room.is_full(journal, size):
            refused[kept.incident.step] = _NO_ROOM.format(human_bytes(size))
            continue
        journal.keep(kept.incident, kept.arrays)
        if room is not None:
            room.take(size)
    return refused


def keep_final(journal: JournalWriter, room: JournalRoom | None, final: KeptFinal | None) -> None:
    """Write the weights that the model ends with; where they have no room, what is said of them."""
    if final is None:
        return
    said = final.said
    arrays = {key.partition("/")[2]: values for key, values in final.arrays.items()}
    size = described_bytes(said, arrays)
    if room is not None and room.is_full(journal, size):
        refused = {"arrays": (), "nbytes": 0, "not_kept": _FINAL_NO_ROOM.format(human_bytes(size))}
        said, arrays = said.model_copy(update=refused), {}
        size = described_bytes(said, arrays)
    journal.keep_final(said, arrays)
    if room is not None:
        room.take(size)
