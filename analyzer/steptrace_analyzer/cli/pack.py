"""``steptrace pack``."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steptrace_analyzer.cli._options import TracePath, local_file
from steptrace_analyzer.cli._output import output_in, progress, write_line

if TYPE_CHECKING:
    from steptrace_schema.format.policy import Profile


class Encoding(StrEnum):
    """How values are encoded: the profiles of the format."""

    fast = "fast"
    compact = "compact"
    none = "none"


def pack(
    trace: TracePath,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            parser=local_file,
            help="File to write, ending in .zip, or a folder for it. [default: beside the trace]",
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        Encoding | None,
        typer.Option(
            "--profile",
            help="Encode again, without loss, on all cores. compact is the smallest.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it exists.")
    ] = False,
) -> None:
    """Write a finished trace into one .zarr.zip file.

    Every command opens such a file directly.

    Examples
    --------
    steptrace pack run.zarr
    steptrace pack run.zarr -o shared/run.zarr.zip
    steptrace pack run.zarr --profile compact
    """
    from steptrace_analyzer.trace import packing
    from steptrace_schema.human import human_bytes

    name: Profile | None = None if profile is None else profile.value
    place = None if output is None else output_in(output, Path(f"{trace.name}.zip"))
    with progress("packing") as report:
        written = packing.pack(trace, place, profile=name, overwrite=overwrite, progress=report)
    write_line(f"{written} ({human_bytes(written.stat().st_size)})")
