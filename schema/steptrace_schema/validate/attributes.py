"""The rules about the root group and its attributes."""

from __future__ import annotations

import zipfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NoReturn

from steptrace_schema.format.consolidation import CONSOLIDATED, differences
from steptrace_schema.format.json_text import parse_json
from steptrace_schema.format.later_versions import minor_of
from steptrace_schema.format.root_checksum import CHECKSUM_KEY, mismatch
from steptrace_schema.names import ATTRIBUTES_KEY, METADATA_FILE
from steptrace_schema.storage.contents import read_file
from steptrace_schema.validate.rules import COPY, RESTORE, REWRITE, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_schema.storage.location import Location

_SEALED_SINCE: Final = 2  # the minor version that brought the checksum


def root_is_group(path: Location) -> Iterator[Problem]:
    """Check R1."""
    expected = "zarr.json with zarr_format 3 and node_type group"
    try:
        metadata = parse_json(read_file(path, METADATA_FILE))
        found = f"{metadata.get('node_type')} of format {metadata.get('zarr_format')}"
    except zipfile.BadZipFile as error:
        yield Problem("/", "R1", expected, f"a damaged ZIP file ({error})", COPY)
    except (OSError, KeyError):
        yield Problem("/", "R1", expected, "no zarr.json", "give the path of the trace itself")
    except (ValueError, AttributeError) as error:
        yield Problem("/", "R1", expected, f"unreadable zarr.json ({error})", COPY)
    else:
        if found != "group of format 3":
            yield Problem("/", "R1", expected, found, "give the path of the trace itself")


def json_is_strict(files: Mapping[str, bytes | str]) -> Iterator[Problem]:
    """Check R2."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(constant)

    for name, content in files.items():
        where = "/" + str(PurePosixPath(name).parent).removeprefix(".")
        if isinstance(content, str):
            yield Problem(where, "R2", "valid JSON", f"{name}: {content}", COPY)
            continue
        try:
            parse_json(content, parse_constant=refuse)
        except ValueError as error:
            yield Problem(where, "R2", "valid JSON", f"{name}: {error}", REWRITE)


def root_is_sealed(root: bytes) -> Iterator[Problem]:
    """Check R19."""
    stated, required = _checksum_of(parse_json(root))
    wrong = mismatch(root) if stated or required else None
    if wrong is not None:
        computed, stored = wrong
        expected = (
            f"the checksum {stored}, which {METADATA_FILE} states" if stored else "a checksum"
        )
        found = f"content with the checksum {computed}" if stored else f"none in {METADATA_FILE}"
        yield Problem("/", "R19", expected, found, RESTORE)


def _checksum_of(root: Any) -> tuple[bool, bool]:
    """Return whether the root has a checksum, and whether its version asks for one."""
    try:
        attributes = root["attributes"][ATTRIBUTES_KEY]
        return CHECKSUM_KEY in attributes, minor_of(attributes["version"]) >= _SEALED_SINCE
    except (KeyError, TypeError):
        return False, False


def metadata_are_as_the_root_says(files: Mapping[str, bytes]) -> Iterator[Problem]:
    """Check R20."""
    metadata = {str(PurePosixPath(name).parent): parse_json(text) for name, text in files.items()}
    root = metadata.pop(".")
    if not _checksum_of(root)[0]:
        return  # the copy of an older trace need not be kept up
    try:
        for key, expected, found in differences(root, metadata):
            yield Problem(key, "R20", expected, f"{found} in {key}/{METADATA_FILE}", COPY)
    except (KeyError, TypeError, AttributeError) as error:
        found = f"unreadable {CONSOLIDATED} ({type(error).__name__}: {error})"
        yield Problem("/", "R20", "a copy of the metadata below the root", found, COPY)


def status_is_explained(attributes: TraceAttributes) -> Iterator[Problem]:
    """Check R5."""
    if attributes.status != "recording" and attributes.finished is None:
        yield Problem("/", "R5", "'finished' with a time", "null", "run 'steptrace recover'")
    if attributes.status == "incomplete" and not attributes.status_reason:
        yield Problem("/", "R5", "'status_reason' with a sentence", "null", REWRITE)
