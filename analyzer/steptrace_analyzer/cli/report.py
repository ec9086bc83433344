"""``steptrace report``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from steptrace_analyzer.cli._options import TracePath
from steptrace_analyzer.cli._output import progress, write_line


def report(
    trace: TracePath,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write. [default: the trace's name with -report.html, in the current "
            "folder]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write one HTML page with all of a trace: findings, loss, gradients, every layer.

    Examples
    --------
    steptrace report run.zarr
    steptrace report run.zarr -o report.html
    """
    from steptrace_analyzer.report import write_report
    from steptrace_analyzer.text import format_bytes
    from steptrace_analyzer.trace.open import open_trace

    name = trace.name.removesuffix(".zip").removesuffix(".zarr") or "trace"
    with progress("drawing") as show:
        written = write_report(
            open_trace(trace),
            output or Path(f"{name}-report.html"),
            path=trace,
            workers=os.cpu_count() or 1,
            progress=show,
        )
    write_line(f"{written} ({format_bytes(written.stat().st_size)})")
