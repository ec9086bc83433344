"""The rules about the root group and its attributes."""

from __future__ import annotations

import json
import zipfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NoReturn

from steptrace_schema.validate.files import files_of, read_text
from steptrace_schema.validate.rules import COPY, REWRITE, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_schema.attributes import TraceAttributes
    from steptrace_schema.location import Location


def root_is_group(path: Location) -> Iterator[Problem]:
    """Check R1."""
    expected = "zarr.json with zarr_format 3 and node_type group"
    try:
        metadata = json.loads(read_text(path, "zarr.json"))
        found = f"{metadata.get('node_type')} of format {metadata.get('zarr_format')}"
    except (OSError, KeyError, zipfile.BadZipFile):
        yield Problem("/", "R1", expected, "no zarr.json", "give the path of the trace itself")
    except (ValueError, AttributeError) as error:
        yield Problem("/", "R1", expected, f"unreadable zarr.json ({error})", COPY)
    else:
        if found != "group of format 3":
            yield Problem("/", "R1", expected, found, "give the path of the trace itself")


def json_is_strict(path: Location) -> Iterator[Problem]:
    """Check R2."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(constant)

    for name in sorted(files_of(path)):
        if PurePosixPath(name).name != "zarr.json":
            continue
        try:
            json.loads(read_text(path, name), parse_constant=refuse)
        except ValueError as error:
            where = "/" + str(PurePosixPath(name).parent).removeprefix(".")
            yield Problem(where, "R2", "valid JSON", f"{name}: {error}", REWRITE)


def status_is_explained(attributes: TraceAttributes) -> Iterator[Problem]:
    """Check R5."""
    if attributes.status != "recording" and attributes.finished is None:
        yield Problem("/", "R5", "'finished' with a time", "null", "run 'steptrace recover'")
    if attributes.status == "incomplete" and not attributes.status_reason:
        yield Problem("/", "R5", "'status_reason' with a sentence", "null", REWRITE)
