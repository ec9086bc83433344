"""``steptrace diff``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from steptrace_analyzer.cli._options import Json, Kinds, OtherTrace, TracePath
from steptrace_analyzer.cli._output import (
    Column,
    hint,
    progress,
    write_json,
    write_line,
    write_table,
)

if TYPE_CHECKING:
    from steptrace_analyzer.differences.result import DiffResult, TensorDiff

_MOST_ROWS = 40


def diff(
    trace: TracePath,
    other: OtherTrace = None,
    steps: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Compare these two steps of TRACE; -1 is the last one."),
    ] = None,
    kind: Kinds = None,
    rtol: Annotated[float, typer.Option(min=0, help="Relative tolerance.")] = 0.0,
    atol: Annotated[float, typer.Option(min=0, help="Absolute tolerance.")] = 0.0,
    every: Annotated[bool, typer.Option("--all", help="List equal tensors too.")] = False,
    as_json: Json = False,
) -> None:
    """Compare two traces, or two steps of one.

    Shows where they first differ, and by how much each tensor differs. Wall-clock times are not
    compared. Exits with 1 if they differ.

    Examples
    --------
    steptrace diff a.zarr b.zarr
    steptrace diff a.zarr b.zarr --kind weights --rtol 1e-5
    steptrace diff run.zarr --steps 10 20
    """
    from steptrace_analyzer.differences import traces
    from steptrace_analyzer.trace.open import open_trace

    if (other is None) == (steps is None):
        msg = "give either a second trace or --steps, as in 'steptrace diff run.zarr --steps 10 20'"
        raise typer.BadParameter(msg)
    kinds: Any = kind or None
    opened = open_trace(trace)
    with progress("comparing") as report:
        if other is not None:
            result = traces.diff(
                opened,
                open_trace(other),
                kinds=kinds,
                rtol=rtol,
                atol=atol,
                names=(str(trace), str(other)),
                progress=report,
            )
        else:
            first, second = steps or (0, 0)
            result = traces.diff_steps(
                opened, first, second, kinds=kinds, rtol=rtol, atol=atol, progress=report
            )
    if as_json:
        write_json(result.document())
    else:
        _show(result, every=every)
    raise typer.Exit(1 if result.differs else 0)


def _show(result: "DiffResult", *, every: bool) -> None:
    from steptrace_analyzer.trace.select import format_steps

    if not result.differs:
        count = len(result.tensors)
        steps = format_steps(result.steps)
        write_line(f"{result.a} and {result.b} are equal: {count} tensors, steps {steps}")
    else:
        where = ""
        if result.first_difference is not None:
            first = result.first_difference
            at = "" if first.step is None else f" at step {first.step}"
            where = f", first in {first.kind}/{first.path}{at}"
        write_line(f"{result.a} and {result.b} differ{where}")
    for mismatch in result.mismatches:
        write_line(f"{mismatch.name}: {mismatch.found}")
    shown = [tensor for tensor in result.tensors if every or tensor.differs]
    limit = len(shown) if every else _MOST_ROWS
    if shown:
        write_line("")
        _show_tensors(shown[:limit])
    if len(shown) > limit:
        hint(f"{len(shown) - limit} more tensors differ; --all lists them")
    equal = len(result.tensors) - len(shown)
    if equal and result.differs:
        hint(f"{equal} tensors are equal")
    for entry in result.not_compared:
        hint(f"not compared: {entry.name}, {entry.found}")


def _show_tensors(tensors: "list[TensorDiff]") -> None:
    names = ["differing", "max abs", "mean abs", "max rel", "mean rel", "cosine", "max ULP"]
    right = [*names, "first step", "worst step", "non-finite"]
    write_table(
        [Column("tensor"), *(Column(name, right=True) for name in right)],
        [
            (
                tensor.name,
                f"{tensor.differing} of {tensor.elements}",
                tensor.max_abs,
                tensor.mean_abs,
                tensor.max_rel,
                tensor.mean_rel,
                None if tensor.cosine is None else f"{tensor.cosine:.6f}",
                tensor.max_ulp,
                tensor.first_step,
                tensor.worst_step,
                _non_finite(tensor),
            )
            for tensor in tensors
        ],
    )


def _non_finite(tensor: "TensorDiff") -> str | None:
    if not tensor.non_finite_a and not tensor.non_finite_b:
        return None
    return f"{tensor.non_finite_a}, {tensor.non_finite_b}"
