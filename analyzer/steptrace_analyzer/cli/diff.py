"""``steptrace diff``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steptrace_analyzer.cli._diff_tables import show_divergence, show_tensor, show_tensors
from steptrace_analyzer.cli._options import Json, Kinds, OtherTrace, TracePath
from steptrace_analyzer.cli._output import hint, progress, write_json, write_line
from steptrace_schema.errors import UnknownNameError

if TYPE_CHECKING:
    from steptrace_analyzer.differences.divergence_result import Divergence
    from steptrace_analyzer.differences.result import DiffResult

_MOST_ROWS = 40
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
    kind: Kinds = None,
    rtol: Annotated[float, typer.Option(min=0, help="Relative tolerance.")] = 0.0,
    atol: Annotated[float, typer.Option(min=0, help="Absolute tolerance.")] = 0.0,
    ulp: Annotated[
        int, typer.Option(min=0, help="Tolerance in representable numbers. Implies --first.")
    ] = 0,
    renamed: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="OLD=NEW",
            help="Layer OLD of TRACE (or FILE) is layer NEW of OTHER. Can be repeated. Implies "
            "--first.",
        ),
    ] = None,
    shift: Annotated[
        int,
        typer.Option(help="Compare step t with step t + SHIFT of OTHER. Implies --first."),
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
    steptrace diff a.zarr b.zarr --kind weights --rtol 1e-5
    steptrace diff run.zarr --steps 10 20
    steptrace diff run.zarr --golden golden.fp.json
    """
    from steptrace_analyzer.differences import divergence, traces
    from steptrace_analyzer.differences import noise as noise_module
    from steptrace_analyzer.differences.golden import read_fingerprint
    from steptrace_analyzer.differences.result import document_of, document_of_noise
    from steptrace_analyzer.trace.open import open_trace

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
    layers = dict(map(_pair, renamed or ()))
    opened = open_trace(trace)
    if noise and other is not None:
        repeated = noise_module.compare_with_noise(
            opened,
            open_trace(other),
            noise,
            kinds=kinds or noise_module.NOISY_KINDS,
            names=(str(trace), str(other)),
        )
        if as_json:
            write_json(document_of_noise(repeated))
        else:
            write_line(str(repeated))
        codes = {"differs": 1, "inconclusive": _INCONCLUSIVE}
        raise typer.Exit(codes.get(repeated.verdict, 0))
    if golden is not None or (other is not None and (first or ulp or layers or shift)):
        found = divergence.first_divergence(
            opened if golden is None else read_fingerprint(golden),
            opened if other is None else open_trace(other),
            kinds=kinds,
            rtol=rtol,
            atol=atol,
            ulp=ulp,
            renamed=layers,
            shift=shift,
            names=(str(trace), str(other)) if golden is None else (str(golden), str(trace)),
        )
        if as_json:
            write_json(document_of(found))
        else:
            show_divergence(found)
        raise typer.Exit(_status(found, fail_on))
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
            one, two = steps or (0, 0)
            result = traces.diff_steps(
                opened, one, two, kinds=kinds, rtol=rtol, atol=atol, progress=report
            )
    if as_json:
        write_json(result.document())
    elif tensor is not None:
        show_tensor(result, tensor)
    else:
        _show(result, every=every, wide=wide)
    is_rounding = result.divergence is not None and result.divergence.verdict == "rounding-sized"
    is_allowed = fail_on == "differs" and is_rounding and not result.mismatches
    raise typer.Exit(1 if result.differs and not is_allowed else 0)


def _pair(text: str) -> tuple[str, str]:
    old, separator, new = text.partition("=")
    if not (old and separator and new):
        msg = f"--map {text}: write OLD=NEW, such as sequential/dense=sequential_1/dense"
        raise UnknownNameError(msg)
    return old, new


def _status(found: "Divergence", fail_on: str) -> int:
    if found.verdict == "inconclusive":
        return _INCONCLUSIVE
    failing = ("differs",) if fail_on == "differs" else _FAIL_ON
    return 1 if found.verdict in failing else 0


def _show(result: "DiffResult", *, every: bool, wide: bool) -> None:
    from steptrace_analyzer.trace.select import format_steps

    steps = format_steps(result.steps)
    write_line(str(result) if result.differs else f"{result}, steps {steps}")
    found = result.divergence
    if result.differs and found is not None:
        for text in (*([found.origin] if found.origin else []), *found.recognised):
            write_line(text)
    for mismatch in result.mismatches:
        write_line(f"{mismatch.name}: {mismatch.found}")
    shown = [tensor for tensor in result.tensors if every or tensor.differs]
    limit = len(shown) if every else _MOST_ROWS
    if shown:
        write_line("")
        show_tensors(shown[:limit], wide=wide)
    if len(shown) > limit:
        hint(f"{len(shown) - limit} more tensors differ; --all lists them")
    equal = len(result.tensors) - len(shown)
    if equal and result.differs:
        hint(f"{equal} tensors are equal")
    for entry in result.not_compared:
        hint(f"not compared: {entry.name}, {entry.found}")
