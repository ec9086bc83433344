"""Arguments and options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from steptrace_schema.storage.location import Location as Place
else:
    # Typer writes its name into the help. Of what a parser returns it makes a `Path`, where that is
    # the type, in some versions: an address would be lost.
    Place = type("path", (), {})


def _locate(path: str) -> Any:
    from steptrace_schema.storage.location import locate  # takes long to import

    return locate(path)


def local_file(path: str) -> Path:
    """Return a path to write to; refuse an address, which a path would mistake for a folder."""
    if "://" in path:
        from steptrace_schema.errors import TraceError

        msg = f"{path} is an address; give a local path, and copy what is written there"
        raise TraceError(msg)
    return Path(path)


TracePath = Annotated[
    Place,
    typer.Argument(
        metavar="TRACE",
        parser=_locate,
        help="A trace: a .zarr folder, a .zarr.zip file, or s3://bucket/path.",
    ),
]
OtherTrace = Annotated[
    Place | None,
    typer.Argument(
        metavar="OTHER",
        parser=_locate,
        help="Another trace; like TRACE.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Kinds = Annotated[
    list[str] | None,
    typer.Option("--kind", metavar="KIND", help="Use only this kind of data. Can be repeated."),
]
