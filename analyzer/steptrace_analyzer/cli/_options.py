"""Arguments and options that several commands share."""

from typing import Annotated, Any

import typer


def _locate(path: str) -> Any:
    from steptrace_schema.storage.location import locate  # takes long to import

    return locate(path)


TracePath = Annotated[
    Any,  # a Location, which typer does not know
    typer.Argument(
        metavar="TRACE",
        parser=_locate,
        help="A trace: a .zarr folder, a .zarr.zip file, or s3://bucket/path.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Kinds = Annotated[
    list[str] | None,
    typer.Option("--kind", metavar="KIND", help="Use only this kind of data. Can be repeated."),
]
