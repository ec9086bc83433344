"""Checking a trace against the specification, rule by rule."""

from __future__ import annotations

import itertools
import zipfile
from typing import TYPE_CHECKING, Final

from steptrace_schema.errors import NotATraceError, TraceError, UnsupportedVersionError
from steptrace_schema.names import METADATA_FILE
from steptrace_schema.storage.location import Location, locate
from steptrace_schema.store.opening import read_attributes, refuse_missing
from steptrace_schema.validate.attributes import (
    json_is_strict,
    metadata_are_as_the_root_says,
    root_is_group,
    root_is_sealed,
    status_is_explained,
)
from steptrace_schema.validate.data import DATA_CHECKS
from steptrace_schema.validate.files import metadata_files
from steptrace_schema.validate.hierarchy import HIERARCHY_CHECKS, Hierarchy
from steptrace_schema.validate.rules import (
    COPY,
    LEVELS,
    MOST_PROBLEMS,
    REWRITE,
    RULES,
    Level,
    Problem,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_UNREADABLE: Final = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
)

__all__ = ["LEVELS", "MOST_PROBLEMS", "RULES", "Level", "Problem", "validate"]


def validate(path: str | Location, level: Level = "data") -> list[Problem]:
    """Check the trace at `path`, a folder or a packed file.

    Parameters
    ----------
    path
        The trace.
    level
        How much to check.

    Returns
    -------
    list of Problem
        All violations, in the order of the rules, or the first `MOST_PROBLEMS`; empty for a valid
        trace.

    Raises
    ------
    NotATraceError
        If nothing exists at `path`, or all of the trace is still in its journal.

    Examples
    --------
    >>> for problem in validate("run.zarr"):  # doctest: +SKIP
    ...     print(problem.rule, problem.path, problem.found, problem.remedy)
    """
    path = locate(path)
    refuse_missing(path)
    if problems := [*root_is_group(path)]:
        return problems
    found = metadata_files(path)
    if problems := [*itertools.islice(json_is_strict(found), MOST_PROBLEMS)]:
        return problems
    files = {name: content for name, content in found.items() if isinstance(content, bytes)}
    # The copy in a root that has changed says nothing.
    changed = [*root_is_sealed(files[METADATA_FILE])] or [*metadata_are_as_the_root_says(files)]
    checked = _check(path, level, changed, files)
    return [*itertools.islice(itertools.chain(checked, changed), MOST_PROBLEMS)]


def _check(
    path: Location, level: Level, changed: list[Problem], files: Mapping[str, bytes]
) -> Iterator[Problem]:
    """Check the rules about what the metadata say, and the data, where they can be read."""
    try:
        attributes = read_attributes(path)
    except UnsupportedVersionError as error:
        yield Problem("/", "R3", "format 1.x", str(error), "use a newer steptrace")
        return
    except NotATraceError as error:
        rule = "R4" if "is not valid" in str(error) else "R3"
        yield Problem("/", rule, RULES[rule], str(error), REWRITE)
        return
    yield from status_is_explained(attributes)
    if level == "attributes":
        return
    try:
        trace = Hierarchy(path, attributes, files)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        TraceError,
        zipfile.BadZipFile,
    ) as error:
        if not changed:
            yield Problem("/", "R1", "readable metadata", str(error), COPY)
        return
    for check in HIERARCHY_CHECKS + (DATA_CHECKS if level == "data" else ()):
        yield from check(trace)
