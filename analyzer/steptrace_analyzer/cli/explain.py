"""``steptrace explain``."""

from typing import Annotated

import typer

from steptrace_analyzer.cli._options import Json, TracePath
from steptrace_analyzer.cli._output import write_json, write_line, write_text

_MOST_TENSORS = 10


def explain(
    trace: TracePath,
    step: Annotated[int, typer.Option("--step", help="The step; -1 is the last.")],
    tensor: Annotated[
        str | None,
        typer.Option("--tensor", help="Only this weight, such as dense/kernel; else the largest."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what happened at a step: what was found there, the batch, and why weights changed.

    Each update is compared with what the optimizer's formula makes of the recorded gradient. With
    --tensor, the gradient of a Dense or Conv layer is divided among the recorded samples.

    Examples
    --------
    steptrace explain run.zarr --step 60
    steptrace explain run.zarr --step 60 --tensor conv/kernel --json
    """
    from steptrace_analyzer.anomalies.step import explain_step
    from steptrace_analyzer.trace.open import open_trace

    found = explain_step(open_trace(trace), step, tensor)
    if as_json:
        write_json({"path": str(trace), **found.to_dict()})
        return
    write_line(f"step {found.step}: {found.summary}")
    for finding in found.findings:
        write_line(f"{finding.severity}: {finding.explanation}")
    write_line("")
    for update in found.updates[:_MOST_TENSORS]:
        write_text(update.explain())
    for shares in found.gradients:
        write_text(shares.explain())
    if len(found.updates) > _MOST_TENSORS:
        write_line(f"{len(found.updates) - _MOST_TENSORS} more weights with --json")
