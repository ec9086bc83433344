"""Commands that need TensorFlow; they join ``steptrace`` through its entry-point group."""

import os
from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the files.")
    ] = Path("steptrace-demo"),
    steps: Annotated[int, typer.Option(min=40, max=2000, help="Training steps.")] = 100,
    open_report: Annotated[
        bool, typer.Option("--open", help="Open the report in a browser at the end.")
    ] = False,
) -> None:
    """Train a small network on real images, with one corrupted batch, and find that batch.

    Trains a convolutional network on scikit-learn's handwritten digits, traced, then runs
    info, anomalies and report on the trace. Needs TensorFlow; uses no network.

    Examples
    --------
    steptrace demo
    steptrace demo -o /tmp/demo --steps 200 --open
    """
    from steptrace_schema.errors import TraceError

    # TensorFlow's notes about the processor come before the first line that matters.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        from steptrace_tracer.demo import run_demo
    except ImportError as error:
        raise TraceError(str(error)) from error

    report = run_demo(output, steps)
    if open_report:
        typer.launch(report.absolute().as_uri())
