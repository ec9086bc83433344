"""``steptrace compare``."""

from typing import TYPE_CHECKING, Annotated

import typer

from steptrace_analyzer.cli._options import Json, TracePath
from steptrace_analyzer.cli._output import Column, hint, write_json, write_line, write_table

if TYPE_CHECKING:
    from steptrace_analyzer.differences.many import ComparedRuns

_INCONCLUSIVE = 2
_MOST_COLUMNS = 6


def compare(
    trace: TracePath,
    others: Annotated[
        list[str],
        typer.Argument(metavar="OTHER", help="More traces; like TRACE.", show_default=False),
    ],
    as_json: Json = False,
) -> None:
    """Say which of many runs are equal, and where they part.

    Reads digests and the tensors of the steps at which runs part. Exits with 1 if any differ.

    Examples
    --------
    steptrace compare run.zarr other.zarr third.zarr
    """
    from steptrace_analyzer.differences.many import compare_runs

    found = compare_runs([trace, *others], [str(trace), *others])
    if as_json:
        write_json(found)
    else:
        show_compared(found)
    raise typer.Exit(compared_status(found))


def compared_status(found: "ComparedRuns") -> int:
    """Return the exit status."""
    return 1 if found.partings else _INCONCLUSIVE if found.inconclusive else 0


def show_compared(found: "ComparedRuns") -> None:
    """Print which runs are equal, and where groups part."""
    for parting in found.partings:
        write_line(f"{', '.join(parting.first)} | {', '.join(parting.second)}")
        write_line(f"  {parting.origin}")
    for group in found.equal:
        if len(group) > 1:
            write_line(f"equal: {', '.join(group)}")
    if found.settings and len(found.runs) <= _MOST_COLUMNS:
        write_line("")
        write_table(
            [Column("setting"), *map(Column, found.runs)],
            [(setting.name, *setting.values) for setting in found.settings],
        )
    elif found.settings:
        hint(f"{len(found.settings)} settings differ; --json lists them")
    for name in found.inconclusive:
        hint(
            f"inconclusive: {name} could not be compared in all that matters with the first run of "
            "its group; 'steptrace diff' says why"
        )
