"""Commands that need TensorFlow; they join ``steptrace`` through its entry-point group."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from steptrace_schema.format.policy import Policy

ScriptName = Annotated[
    str, typer.Argument(metavar="SCRIPT", help="The training script; with -m, a module.")
]
ScriptArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="ARGS", help="Arguments and options of the script.", show_default=False),
]
IsModule = Annotated[
    bool, typer.Option("--module", "-m", help="Run SCRIPT as a module, as python -m does.")
]
Every = Annotated[
    str,
    typer.Option(
        metavar="N|auto",
        help="Record one step in N, or as many as slow the training down by a tenth at most.",
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Samples of each batch to record; by default 4, or fewer if they are large.",
        show_default=False,
    ),
]
KindNames = Annotated[
    list[str] | None,
    typer.Option("--kind", metavar="KIND", help="Record only this kind of data. Can be repeated."),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN", help="Record only paths that match, such as */conv*. Can be repeated."
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Leave out paths that match. Can be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


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

    Trains a convolutional network on scikit-learn's handwritten digits and records it. Then runs
    info, anomalies and report on the trace. Needs TensorFlow, and no network connection.

    Examples
    --------
    steptrace demo
    steptrace demo -o /tmp/demo --steps 200 --open
    """
    from steptrace_schema.errors import TraceError

    # TensorFlow's notes about the processor come before the first line that matters.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        from steptrace_tracer.commands.demo import run_demo
    except ImportError as error:
        raise TraceError(str(error)) from error

    report = run_demo(output, steps)
    if open_report:
        typer.launch(report.absolute().as_uri())


def record(
    script: ScriptName,
    arguments: ScriptArguments = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="RUN", help="Path of the first trace.")
    ] = "run.zarr",
    is_module: IsModule = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing traces.")
    ] = False,
    every: Every = "1",
    samples: Samples = None,
    kind: KindNames = None,
    include: Include = None,
    exclude: Exclude = None,
) -> None:
    """Run a training script without a change, and record every fit in it.

    Records the first fit into RUN, the second one into a path with -2 before its suffix, and so on.
    Leaves a fit alone that already has a tracer. Put options of this command before SCRIPT. The
    exit status is the script's, or 2 if it called no fit.

    Examples
    --------
    steptrace record train.py
    steptrace record -o run.zarr --every 10 train.py --epochs 3
    steptrace record -o run.zarr -m project.train
    """
    _record(
        (script, tuple(arguments or ()), is_module),
        output,
        _policy(every, samples, kind, include, exclude),
        overwrite=overwrite,
        changed=False,
    )


def perturb(
    script: ScriptName,
    arguments: ScriptArguments = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="RUN", help="Path of the first trace.")
    ] = "perturbed.zarr",
    is_module: IsModule = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing traces.")
    ] = False,
    every: Every = "1",
    samples: Samples = None,
    kind: KindNames = None,
    include: Include = None,
    exclude: Exclude = None,
) -> None:
    """Record a training script whose inputs are changed by rounding: to the next number.

    The trace shows how far rounding alone moves the training, for 'steptrace diff
    --noise-from-rounding'. Changes every input by one representable number of the type that the
    model computes in; initial weights where no input is a floating-point number. Seed the script,
    so that nothing else differs. Steps that Tracer.wrap wraps are changed too, and what the
    script's own tracers record goes to RUN. Otherwise like 'steptrace record'.

    Examples
    --------
    steptrace perturb -o perturbed.zarr train.py --epochs 3
    steptrace diff run.zarr other.zarr --noise-from-rounding perturbed.zarr
    """
    _record(
        (script, tuple(arguments or ()), is_module),
        output,
        _policy(every, samples, kind, include, exclude),
        overwrite=overwrite,
        changed=True,
    )


def verify(
    script: Annotated[
        str,
        typer.Argument(
            metavar="SCRIPT", help="The training script; with -m, a module.", show_default=False
        ),
    ] = "",
    arguments: ScriptArguments = None,
    is_module: IsModule = False,
    networks: Annotated[
        bool,
        typer.Option(
            "--networks",
            help="Verify well-known networks instead: all, or those named in place of SCRIPT, "
            "such as MobileNetV2 'vit 64'.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of Python, NumPy and Keras.")] = 0,
    every: Every = "1",
    samples: Samples = None,
    kind: KindNames = None,
    include: Include = None,
    exclude: Exclude = None,
    as_json: Json = False,
) -> None:
    """Run a training script with and without the tracer, and compare every bit.

    Compares all weights and optimizer variables after every step of every fit. Each run is a
    separate process with the same seed, and writes the script's files. Exits with 1 if the tracer
    changes the training, and with 2 if two runs without it already differ.

    Examples
    --------
    steptrace verify train.py --epochs 1
    steptrace verify --seed 3 --json train.py
    steptrace verify --networks MobileNetV2 unet
    """
    from steptrace_schema.errors import TraceError
    from steptrace_tracer.scripts.script import Script
    from steptrace_tracer.verification.verify import verify_script

    if networks:
        names = [name for name in (script, *(arguments or ())) if name]
        raise typer.Exit(_verify_networks(names, seed, as_json=as_json))
    if not script:
        msg = "name the script to verify, or --networks"
        raise TraceError(msg)
    found = verify_script(
        Script(script, tuple(arguments or ()), is_module),
        policy=_policy(every, samples, kind, include, exclude),
        seed=seed,
    )
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    elif found.verdict != "not deterministic":
        typer.echo(f"{script}: {found}")
    if found.verdict == "not deterministic":
        msg = f"{script}: {found}"
        raise TraceError(msg)
    raise typer.Exit(0 if found.verdict == "identical" else 1)


def _verify_networks(names: list[str], seed: int, *, as_json: bool) -> int:
    """Verify networks, say of each what came out, and return the exit status."""
    from steptrace_tracer.verification.networks import Row, rows
    from steptrace_tracer.verification.verify import verify_network

    chosen = [Row.of(name) for name in names] or rows()
    found = {}
    for row in chosen:
        found[str(row)] = verify_network(str(row), seed=seed)
        if not as_json:
            typer.echo(f"{row}: {found[str(row)]}")
    if as_json:
        typer.echo(json.dumps({name: each.to_dict() for name, each in found.items()}, indent=2))
    return int(any(each.verdict == "different" for each in found.values()))


def plan(
    script: ScriptName,
    arguments: ScriptArguments = None,
    is_module: IsModule = False,
    budget: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="The most bytes that the trace may take, such as 10GB."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the run, if not those of the fit.")
    ] = None,
    every: Every = "1",
    samples: Samples = None,
    kind: KindNames = None,
    include: Include = None,
    exclude: Exclude = None,
    as_json: Json = False,
) -> None:
    """Estimate what a trace of a training script will cost, before the run.

    Runs the script up to the first step of its first fit, and trains a few steps there. Shows bytes
    by kind and layer, and the time of a step with and without the tracer. With --budget it suggests
    a tracer that fits, and exits with 1 if not even one step fits. Bytes are counted before
    encoding.

    Examples
    --------
    steptrace plan train.py
    steptrace plan --budget 10GB --steps 50000 train.py --epochs 100
    """
    from steptrace_tracer.planning.script import plan_script
    from steptrace_tracer.planning.text import describe, parse_bytes
    from steptrace_tracer.scripts.script import Script

    found = plan_script(
        Script(script, tuple(arguments or ()), is_module),
        _policy(every, samples, kind, include, exclude),
        steps=steps,
        budget=None if budget is None else parse_bytes(budget),
    )
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else describe(found))
    raise typer.Exit(1 if found.budget is not None and found.fitting is None else 0)


def _record(
    script: tuple[str, tuple[str, ...], bool],
    output: str,
    policy: "Policy",
    *,
    overwrite: bool,
    changed: bool,
) -> NoReturn:
    """Run a script with every fit recorded, and end with its exit status."""
    from steptrace_schema.errors import TraceError
    from steptrace_tracer.scripts.record_script import record_script
    from steptrace_tracer.scripts.script import Script

    if "://" in output:
        what = "perturb" if changed else "record"
        msg = (
            f"{output}: {what} writes only to a local path; give one, and copy the trace afterwards"
        )
        raise TraceError(msg)
    found = record_script(
        Script(*script), Path(output), policy, overwrite=overwrite, perturb=changed
    )
    sys.stderr.write(f"steptrace: traces: {', '.join(map(str, found.traces)) or 'none'}\n")
    raise typer.Exit(found.exit_status)


def _policy(
    every: str,
    samples: int | None,
    kinds: list[str] | None,
    include: list[str] | None,
    exclude: list[str] | None,
) -> "Policy":
    """Return the policy that the options ask for."""
    from pydantic import ValidationError

    from steptrace_schema.errors import TraceError
    from steptrace_schema.format.policy import Policy
    from steptrace_schema.names import KINDS

    given: dict[str, Any] = {"kinds": kinds, "include": include, "exclude": exclude}
    fields: dict[str, Any] = {name: tuple(value) for name, value in given.items() if value}
    fields["every"] = every
    if samples is not None:
        fields["samples"] = samples
    try:
        return Policy(**fields)
    except ValidationError as error:
        if any(found["loc"] == ("every",) for found in error.errors()):
            msg = f"--every is '{every}'; give a number of steps, from 1 on, or auto"
            raise TraceError(msg) from error
        unknown = [name for name in kinds or () if name not in KINDS]
        msg = f"there is no kind {', '.join(unknown)}; the kinds are {', '.join(KINDS)}"
        raise TraceError(msg) from error


# Whatever stands behind the script is the script's own.
for _command in (record, perturb, verify, plan):
    vars(_command)["context_settings"] = {"allow_interspersed_args": False}
