"""``steptrace replay``; it joins ``steptrace`` through its entry-point group."""

import json
from typing import Annotated

import typer

from steptrace_tracer.commands.cli import IsModule, Json, ScriptArguments, ScriptName


def replay(
    trace: Annotated[
        str, typer.Argument(metavar="RUN", help="The trace that the script was recorded into.")
    ],
    script: ScriptName,
    arguments: ScriptArguments = None,
    step: Annotated[
        int, typer.Option("--step", min=0, metavar="T", help="The step to run again.")
    ] = ...,  # type: ignore[assignment]
    is_module: IsModule = False,
    fit: Annotated[
        int, typer.Option(min=1, metavar="N", help="The fit, or wrapped step, that RUN is of.")
    ] = 1,
    check_numerics: Annotated[
        bool,
        typer.Option(
            "--check-numerics", help="Stop at the operation that first gives NaN or infinity."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Run one recorded step again in its training script, and compare every bit.

    Runs the script up to its training. There it restores weights, optimizer, states of random
    layers and the batch of the step, does the step, and ends. Steps that are kept as a whole can be
    run again (steptrace info lists them), and those of which the policy kept everything. Exits with
    1 if loss or gradients differ, or the step raises another exception; with --check-numerics, if
    an operation gives a number that is not finite.

    Examples
    --------
    steptrace replay run.zarr --step 60 train.py
    steptrace replay run.zarr --step 60 --check-numerics train.py --epochs 3
    """
    from steptrace_schema.storage.location import locate
    from steptrace_tracer.replay.replay_script import replay_script
    from steptrace_tracer.scripts.script import Script

    found = replay_script(
        Script(script, tuple(arguments or ()), is_module),
        locate(trace),
        step,
        fit=fit,
        check_numerics=check_numerics,
    )
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))
    is_finite = check_numerics and found.error is None
    raise typer.Exit(0 if found.is_same or is_finite else 1)


# Whatever stands behind the script is the script's own.
vars(replay)["context_settings"] = {"allow_interspersed_args": False}
