"""``steptrace report``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from steptrace_analyzer.cli._options import TracePath, local_file
from steptrace_analyzer.cli._output import output_in, progress, write_line


def report(
    trace: TracePath,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            parser=local_file,
            help="File to write, or a folder for it. [default: the trace's name with "
            "-report.html, in the current folder]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write one HTML page with the findings, the loss, the gradients and every layer.

    Examples
    --------
    steptrace report run.zarr
    steptrace report run.zarr -o report.html
    """
    from steptrace_analyzer.report import write_report
    from steptrace_analyzer.trace.files import file_stem
    from steptrace_analyzer.trace.open import open_trace
    from steptrace_schema.human import human_bytes

    name = Path(f"{file_stem(trace.name)}-report.html")
    with progress("drawing") as show:
        written = write_report(
            open_trace(trace),
            output_in(output, name),
            path=trace,
            workers=os.cpu_count() or 1,
            progress=show,
        )
    write_line(f"{written} ({human_bytes(written.stat().st_size)})")
