"""``steptrace report``."""

import os
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from steptrace_analyzer.cli._options import TracePath, local_file
from steptrace_analyzer.cli._output import output_in, progress, write_line
from steptrace_analyzer.cli._plotting import StepRange, steps_of


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
    steps: StepRange = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            metavar="LAYER",
            help="Layer with figures: its path, or the end of it. Can be repeated. [default: all]",
            show_default=False,
        ),
    ] = None,
    max_size: Annotated[
        float, typer.Option("--max-size", min=0.0, help="Megabytes of the page, about.")
    ] = 8.0,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser.")
    ] = False,
) -> None:
    """Write one HTML page with the findings, the loss, the gradients and every layer.

    Examples
    --------
    steptrace report run.zarr
    steptrace report run.zarr -o report.html --open
    steptrace report run.zarr --steps 58:62 --layer dense --layer conv --max-size 3
    """
    from steptrace_analyzer.report import write_report
    from steptrace_analyzer.trace.files import file_stem
    from steptrace_analyzer.trace.open import open_trace
    from steptrace_schema.human import human_bytes

    opened = open_trace(trace)
    chosen = steps_of(opened, steps) if steps is not None else None
    name = Path(f"{file_stem(trace.name)}-report.html")
    with progress("drawing") as show:
        written = write_report(
            opened,
            output_in(output, name),
            path=trace,
            steps=chosen,
            layers=layer,
            max_bytes=round(max_size * 1e6),
            workers=os.cpu_count() or 1,
            progress=show,
        )
    write_line(f"{written} ({human_bytes(written.stat().st_size)})")
    if open_page:
        webbrowser.open(written.resolve().as_uri())
