"""``steptrace diff``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steptrace_analyzer.cli._diff_tables import show_divergence, show_result, show_tensor
from steptrace_analyzer.cli._options import Json, Kinds, OtherTrace, TracePath
from steptrace_analyzer.cli._output import progress, write_json, write_line
from steptrace_schema.errors import UnknownNameError

if TYPE_CHECKING:
    from steptrace_analyzer.differences.divergence_result import Verdict

_INCONCLUSIVE = 2
_FAIL_ON = ("rounding-sized", "differs")


def diff(
    trace: TracePath,
    other: OtherTrace = None,
    steps: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Compare these two steps of TRACE; -1 is the last one."),
    ] = None,
    first: Annotated[
        bool,
        typer.Option(
            "--first", help="Find only where the two part. Reads digests and one step's tensors."
        ),
    ] = False,
    golden: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Compare with a file that 'steptrace fingerprint' has written, as --first does.",
            show_default=False,
        ),
    ] = None,
    noise: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN",
            help="Compare with the distances between repeats of a run. Give it at least twice.",
            show_default=False,
        ),
    ] = None,
    rounding: Annotated[
        str | None,
        typer.Option(
            "--noise-from-rounding",
            metavar="RUN",
            help="Compare with what 'steptrace perturb' has recorded: TRACE with rounded inputs.",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Compare the distances of both to a third run of higher precision.",
            show_default=False,
        ),
    ] = None,
    kind: Kinds = None,
    rtol: Annotated[float, typer.Option(min=0, help="Relative tolerance.")] = 0.0,
    atol: Annotated[float, typer.Option(min=0, help="Absolute tolerance.")] = 0.0,
    ulp: Annotated[int, typer.Option(min=0, help="Tolerance in representable numbers.")] = 0,
    renamed: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="OLD=NEW",
            help="Layer OLD of TRACE (or FILE) is layer NEW of OTHER. Can be repeated.",
        ),
    ] = None,
    shift: Annotated[
        int,
        typer.Option(help="Compare step t with step t + SHIFT of OTHER."),
    ] = 0,
    tensor: Annotated[
        str | None, typer.Option(metavar="KIND/PATH", help="Show all numbers of one tensor.")
    ] = None,
    wide: Annotated[
        bool, typer.Option("--wide", help="Show all columns, for more than 80 characters.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="List equal tensors too.")] = False,
    fail_on: Annotated[
        str,
        typer.Option(
            metavar="VERDICT", help="Exit with 1 from this verdict on: rounding-sized or differs."
        ),
    ] = "rounding-sized",
    as_json: Json = False,
) -> None:
    """Compare two traces, or two steps of one.

    Shows where they first differ, what was computed there and from what, and by how much each
    tensor differs. Wall-clock times are not compared. Exits with 1 if they differ, and with 2 if
    nothing could be compared.

    Examples
    --------
    steptrace diff a.zarr b.zarr
    steptrace diff a.zarr b.zarr --first --ulp 4
    steptrace diff a.zarr b.zarr --noise r1.zarr --noise r2.zarr --noise r3.zarr
    steptrace diff a.zarr b.zarr --noise-from-rounding perturbed.zarr
    steptrace diff a.zarr b.zarr --reference float64.zarr
    steptrace diff a.zarr b.zarr --kind weights --rtol 1e-5
    steptrace diff run.zarr --steps 10 20
    steptrace diff run.zarr --golden golden.fp.json
    """
    from steptrace_analyzer.differences.sides import opened_side
    from steptrace_analyzer.differences.steps import diff_steps
    from steptrace_analyzer.differences.traces import diff as compare

    if sum(given is not None for given in (other, steps, golden)) != 1:
        msg = (
            "give either a second trace or --steps, as in 'steptrace diff run.zarr --steps 10 20', "
            "or --golden"
        )
        raise typer.BadParameter(msg)
    if fail_on not in _FAIL_ON:
        msg = f"there is no verdict '{fail_on}' to fail on; there are {', '.join(_FAIL_ON)}"
        raise UnknownNameError(msg)
    kinds: Any = kind or None
    within: Any = {"kinds": kinds, "rtol": rtol, "atol": atol, "ulp": ulp}
    layers = dict(map(_pair, renamed or ()))
    first_side, second_side = (trace, other) if golden is None else (golden, trace)
    names = (str(first_side), str(second_side))
    with progress("comparing") as report:
        if steps is not None:
            result = diff_steps(opened_side(trace), *steps, progress=report, **within)
        else:
            assert second_side is not None
            result = compare(
                opened_side(first_side),
                opened_side(second_side),
                renamed=layers,
                shift=shift,
                noise=noise or (),
                rounding=rounding,
                reference=reference,
                whole=not (first or golden or noise or rounding or reference),
                names=names,
                progress=report,
                **within,
            )
    if as_json:
        write_json(result.document())
    elif tensor is not None:
        show_tensor(result, tensor)
    elif result.divergence is not None and not result.tensors:
        if result.noise is not None:
            write_line(str(result.noise))
        show_divergence(result.divergence)
    else:
        show_result(result, every=every, wide=wide)
    raise typer.Exit(_status(result.verdict, fail_on))


def _pair(text: str) -> tuple[str, str]:
    old, separator, new = text.partition("=")
    if not (old and separator and new):
        msg = f"--map {text}: write OLD=NEW, such as sequential/dense=sequential_1/dense"
        raise UnknownNameError(msg)
    return old, new


def _status(verdict: "Verdict", fail_on: str) -> int:
    if verdict == "inconclusive":
        return _INCONCLUSIVE
    return 1 if verdict in _FAIL_ON[_FAIL_ON.index(fail_on) :] else 0
