"""``steptrace recover``."""

from steptrace_analyzer.cli._options import TracePath
from steptrace_analyzer.cli._output import write_line


def recover(trace: TracePath) -> None:
    """Finish a trace whose training was killed.

    Moves the steps in its journal into the store. The trace also opens without this. Afterwards it
    is one store without a journal, and can be packed.

    Examples
    --------
    steptrace recover run.zarr
    """
    from steptrace_schema.journal.reader import JournalReader
    from steptrace_schema.journal.where import journal_path
    from steptrace_schema.moving.recover import recover as finish
    from steptrace_schema.store.opening import read_attributes

    had_journal = JournalReader(journal_path(trace)).exists
    moved = finish(trace)
    attributes = read_attributes(trace)
    if not had_journal:
        write_line(f"{trace}: nothing to recover, it has no journal; status {attributes.status}")
    else:
        steps = attributes.steps_recorded.get("scalars", 0)
        write_line(
            f"{trace}: moved {moved} record{'s' * (moved != 1)} of the journal into the store; "
            f"{steps} steps, status {attributes.status}"
        )
