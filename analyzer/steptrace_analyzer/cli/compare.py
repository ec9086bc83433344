"""``steptrace compare``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steptrace_analyzer.cli._options import Json, TracePath, local_file
from steptrace_analyzer.cli._output import (
    Column,
    hint,
    output_in,
    write_json,
    write_line,
    write_table,
)

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
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            parser=local_file,
            help="Draw losses and norms of all runs over each other; PNG, SVG or PDF.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say which of many runs are equal, and where they part.

    Reads digests and the tensors of the steps at which runs part. Exits with 1 if any differ.

    Examples
    --------
    steptrace compare run.zarr other.zarr third.zarr
    steptrace compare -o runs.png run.zarr other.zarr third.zarr
    """
    from steptrace_analyzer.differences.many import compare_runs

    found = compare_runs([trace, *others], [str(trace), *others])
    if as_json:
        write_json(found)
    else:
        show_compared(found)
    if output is not None:
        _draw([str(trace), *others], output, found)
    raise typer.Exit(compared_status(found))


def _draw(paths: list[str], output: Path, found: "ComparedRuns") -> None:
    from steptrace_analyzer.differences.golden import is_fingerprint
    from steptrace_analyzer.differences.sides import opened_side
    from steptrace_analyzer.plots.runs import draw_runs, runs_data
    from steptrace_analyzer.plots.save import save_figure

    sides = {path: opened_side(path) for path in paths}
    drawn = {path: side for path, side in sides.items() if not is_fingerprint(side)}
    parted = [p.place.step for p in found.partings if p.place.step is not None]
    data = runs_data(list(drawn.values()), list(drawn), parted)
    written = save_figure(draw_runs(data), output_in(output, Path("compared-runs.png")))
    hint(f"drawn in {written}")


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
