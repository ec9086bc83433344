"""``steptrace unpack``."""

from pathlib import Path
from typing import Annotated

import typer

from steptrace_analyzer.cli._options import TracePath, local_file
from steptrace_analyzer.cli._output import progress, write_line


def unpack(
    trace: TracePath,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", parser=local_file, help="The folder to write."),
    ] = None,
) -> None:
    """Write a packed trace back into a folder.

    Examples
    --------
    steptrace unpack run.zarr.zip
    steptrace unpack run.zarr.zip -o elsewhere/run.zarr
    """
    from steptrace_analyzer.trace import packing

    with progress("unpacking") as report:
        written = packing.unpack(trace, output, progress=report)
    write_line(str(written))
