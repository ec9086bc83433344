"""The command line: global options and the table of commands."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

from steptrace_analyzer.cli._commands import lazy_group
from steptrace_analyzer.cli._errors import Settings, guarded

_COMMANDS: Final = {
    name: f"steptrace_analyzer.cli.{target}"
    for name, target in {
        "info": "info:info",
        "validate": "validate:validate",
        "diff": "diff:diff",
        "compare": "compare:compare",
        "fingerprint": "fingerprint:fingerprint",
        "anomalies": "anomalies:anomalies",
        "explain": "explain:explain",
        "plot": "plot:app",
        "animate": "animate:animate",
        "report": "report:report",
        "view": "view:view",
        "pack": "pack:pack",
        "unpack": "unpack:unpack",
        "recover": "recover:recover",
    }.items()
}
"""Every command and where it is: a function, or a typer app with commands of its own."""

app = typer.Typer(
    name="steptrace",
    cls=lazy_group(_COMMANDS, "steptrace.commands"),
    no_args_is_help=True,
    rich_markup_mode=None,  # rich's help takes longer to import than all the rest
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from steptrace_schema.version import FORMAT_VERSION, PACKAGE_VERSION

        typer.echo(f"steptrace {PACKAGE_VERSION} (trace format {FORMAT_VERSION})")
        raise typer.Exit


@app.callback()
def steptrace(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error comes from, with a traceback.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Look into the training of a neural network, recorded step by step.

    Exit status: 0 nothing found, 1 something found (diff, anomalies, validate), 2 the command
    failed.
    """
    context.ensure_object(Settings).debug = debug


def run(arguments: list[str]) -> int:
    """Run the command line with `arguments` and return its exit status."""
    settings = Settings()
    return guarded(lambda: app(arguments, prog_name="steptrace", obj=settings), settings)


def main() -> None:
    """Run the command line of the process."""
    sys.exit(run(sys.argv[1:]))
