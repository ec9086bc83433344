"""``steptrace diff``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steptrace_analyzer.cli._diff_outputs import write_files
from steptrace_analyzer.cli._diff_tables import show_divergence, show_result, show_tensor
from steptrace_analyzer.cli._options import Json, Kinds, OtherTrace, TracePath, local_file
from steptrace_analyzer.cli._output import progress, write_json, write_line
from steptrace_analyzer.cli.compare import compared_status, show_compared
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
    align: Annotated[
        bool,
        typer.Option(
            "--align",
            help="Find the SHIFT that fits best, as of a resumed run whose steps count again.",
        ),
    ] = False,
    ranks: Annotated[
        bool,
        typer.Option(
            "--ranks",
            help="TRACE is the folder of a distributed run: compare the weights of its processes.",
        ),
    ] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Compare the weights with a Keras .weights.h5 or a .safetensors file.",
            show_default=False,
        ),
    ] = None,
    step: Annotated[
        int,
        typer.Option(help="Which weights --checkpoint is compared with: those before this step."),
    ] = -1,
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
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=local_file,
            help="Write one page with where the two part, layer by layer and in the first tensor.",
            show_default=False,
        ),
    ] = None,
    sarif: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=local_file,
            help="Write SARIF, which code hosts show beside a change.",
            show_default=False,
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=local_file,
            help="Write JUnit XML, a test for each tensor.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare two traces, two steps of one, its processes, or its weights with a checkpoint.

    Shows where they first differ, what was computed there and from what, and by how much each
    tensor differs. Wall-clock times are not compared. Exits with 0 if the verdict is equal or
    within noise, with 1 if it is rounding-sized or differs, and with 2 if it is inconclusive.

    Examples
    --------
    steptrace diff a.zarr b.zarr
    steptrace diff a.zarr b.zarr --first --ulp 4
    steptrace diff a.zarr b.zarr --noise r1.zarr --noise r2.zarr --noise r3.zarr
    steptrace diff a.zarr b.zarr --noise-from-rounding perturbed.zarr
    steptrace diff a.zarr b.zarr --reference float64.zarr
    steptrace diff a.zarr b.zarr --kind weights --rtol 1e-5
    steptrace diff run.zarr --steps 10 20
    steptrace diff a.zarr resumed.zarr --align
    steptrace diff run.zarr --golden golden.fp.json
    steptrace diff run.zarr --checkpoint model.weights.h5
    steptrace diff run.zarr --ranks
    steptrace diff a.zarr b.zarr --html diff.html --sarif diff.sarif --junit diff.xml
    """
    from steptrace_analyzer.differences.checkpoint import diff_checkpoint
    from steptrace_analyzer.differences.golden import read_fingerprint
    from steptrace_analyzer.differences.ranks import RANK_KINDS, compare_ranks
    from steptrace_analyzer.differences.sides import opened_side
    from steptrace_analyzer.differences.steps import diff_steps
    from steptrace_analyzer.differences.traces import diff as compare

    if sum(given is not None for given in (other, steps, golden, checkpoint)) + ranks != 1:
        msg = (
            "give either a second trace or --steps, as in 'steptrace diff run.zarr --steps 10 20', "
            "or --golden, --checkpoint or --ranks"
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
    if ranks and (html or sarif or junit):
        msg = "--html, --sarif and --junit show two sides, and --ranks may have more; use --json"
        raise typer.BadParameter(msg)
    if ranks:
        found = compare_ranks(trace, kinds=kinds or RANK_KINDS)
        if as_json:
            write_json(found)
        else:
            show_compared(found)
        raise typer.Exit(compared_status(found))
    sides: Any = trace, None
    with progress("comparing") as report:
        if checkpoint is not None:
            result = diff_checkpoint(
                opened_side(trace),
                checkpoint,
                step=step,
                renamed=layers,
                rtol=rtol,
                atol=atol,
                ulp=ulp,
            )
        elif steps is not None:
            result = diff_steps(opened_side(trace), *steps, progress=report, **within)
        else:
            assert second_side is not None
            first_tree = opened_side(trace) if golden is None else read_fingerprint(golden)
            sides = first_tree, opened_side(second_side)
            result = compare(
                *sides,
                renamed=layers,
                shift=shift,
                align=align,
                noise=noise or (),
                rounding=rounding,
                reference=reference,
                whole=not (first or golden or noise or rounding or reference) or bool(html),
                names=names,
                progress=report,
                **within,
            )
    if as_json:
        write_json(result.document())
    elif tensor is not None:
        show_tensor(result, tensor)
    elif result.divergence is not None and not result.tensors and not result.mismatches:
        if result.noise is not None:
            write_line(str(result.noise))
        show_divergence(result.divergence, result.verdict)
    else:
        show_result(result, every=every, wide=wide)
    status = _status(result.verdict, fail_on)
    write_files(result, sides, fails=status != 0, html=html, sarif=sarif, junit=junit)
    raise typer.Exit(status)


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
