"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

TracePath = Annotated[
    Path,
    typer.Argument(metavar="TRACE", help="A trace: a .zarr folder or a .zarr.zip file."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Kinds = Annotated[
    list[str] | None,
    typer.Option("--kind", metavar="KIND", help="Only this kind of data; may be repeated."),
]
