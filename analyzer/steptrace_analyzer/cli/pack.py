"""``steptrace pack``."""

from pathlib import Path
from typing import Annotated

import typer

from steptrace_analyzer.cli._options import TracePath
from steptrace_analyzer.cli._output import progress, write_line


def pack(
    trace: TracePath,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write, ending in .zip."),
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
    """
    from steptrace_analyzer import packing
    from steptrace_analyzer.text import format_bytes

    with progress("packing") as report:
        written = packing.pack(trace, output, overwrite=overwrite, progress=report)
    write_line(f"{written} ({format_bytes(written.stat().st_size)})")
