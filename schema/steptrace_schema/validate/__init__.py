"""Checking a trace against the specification, rule by rule."""

from __future__ import annotations

from steptrace_schema.errors import NotATraceError, UnsupportedVersionError
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
from steptrace_schema.validate.rules import COPY, LEVELS, REWRITE, RULES, Level, Problem

__all__ = ["LEVELS", "RULES", "Level", "Problem", "validate"]


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
        All violations, in the order of the rules; empty for a valid trace.

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
    if problems := [*json_is_strict(found)]:
        return problems
    files = {name: content for name, content in found.items() if isinstance(content, bytes)}
    # The copy in a root that has changed says nothing.
    changed = [*root_is_sealed(files[METADATA_FILE])] or [*metadata_are_as_the_root_says(files)]
    return [*_check(path, level, changed), *changed]


def _check(path: Location, level: Level, changed: list[Problem]) -> list[Problem]:
    """Check the rules about what the metadata say, and the data, where they can be read."""
    try:
        attributes = read_attributes(path)
    except UnsupportedVersionError as error:
        return [Problem("/", "R3", "format 1.x", str(error), "use a newer steptrace")]
    except NotATraceError as error:
        rule = "R4" if "is not valid" in str(error) else "R3"
        return [Problem("/", rule, RULES[rule], str(error), REWRITE)]
    problems = [*status_is_explained(attributes)]
    if level == "attributes":
        return problems
    try:
        trace = Hierarchy(path, attributes)
    except Exception as error:  # zarr has no one type for metadata that it does not understand
        unreadable = Problem("/", "R1", "readable metadata", str(error), COPY)
        return problems if changed else [*problems, unreadable]
    checks = HIERARCHY_CHECKS + (DATA_CHECKS if level == "data" else ())
    return problems + [problem for check in checks for problem in check(trace)]
