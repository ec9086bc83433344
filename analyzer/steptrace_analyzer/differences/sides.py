"""What a comparison takes: a trace, or the fingerprint of one in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from steptrace_analyzer.differences.golden import read_fingerprint
from steptrace_analyzer.trace.open import opened
from steptrace_schema.errors import UnknownNameError
from steptrace_schema.names import KINDS
from steptrace_schema.storage.location import locate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steptrace_analyzer.trace.open import TraceOrPath
    from steptrace_schema.names import Kind

_FINGERPRINT = ".json"


def opened_side(side: TraceOrPath) -> xr.DataTree:
    """Return an opened trace as it is, and open what is a path: of a trace, or a fingerprint.

    Examples
    --------
    >>> opened_side("golden.fp.json")  # doctest: +SKIP
    """
    if not isinstance(side, xr.DataTree):
        location = locate(side)
        if isinstance(location, Path) and location.suffix == _FINGERPRINT:
            return read_fingerprint(location)
        return opened(location)
    return side


def name_of(side: TraceOrPath, default: str) -> str:
    """Return the name of a trace in a result: its path, or that of its tree."""
    return (side.name or default) if isinstance(side, xr.DataTree) else str(side)


def known_kinds(kinds: Sequence[Kind] | None) -> tuple[Kind, ...] | None:
    """Return kinds that there are.

    Raises
    ------
    UnknownNameError
        If there is no such kind.
    """
    for kind in kinds or ():
        if kind not in KINDS:
            msg = f"there is no kind of data '{kind}'; the kinds are {', '.join(KINDS)}"
            raise UnknownNameError(msg)
    return None if kinds is None else tuple(kinds)
