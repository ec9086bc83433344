"""``steptrace fingerprint``."""

from pathlib import Path
from typing import Annotated

import typer

from steptrace_analyzer.cli._options import TracePath, local_file
from steptrace_analyzer.cli._output import output_in, write_line


def fingerprint(
    trace: TracePath,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            parser=local_file,
            metavar="FILE",
            help="File to write; by default <trace>.fp.json in this folder.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write the digests of a run into one small file, to compare later runs with.

    Keep the file in your repository. 'steptrace diff RUN --golden FILE' then says whether a run is
    still the same, and where it parts.

    Examples
    --------
    steptrace fingerprint run.zarr -o golden.fp.json
    steptrace diff run.zarr --golden golden.fp.json
    """
    from steptrace_analyzer.differences.golden import write_fingerprint

    stem = trace.name.removesuffix(".zip").removesuffix(".zarr")
    target = output_in(output, Path(f"{stem}.fp.json"))
    write_fingerprint(trace, target)
    write_line(str(target))
