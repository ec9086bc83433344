"""Where the journal of a trace is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import xxhash

from steptrace_schema.storage.location import Location, locate

JOURNALS_VARIABLE: Final = "STEPTRACE_JOURNALS"
"""Environment variable with the folder for the journals of traces that are not on a local disk."""


def journal_path(store: str | Location) -> Path:
    """Return the folder of the journal that belongs to the store at `store`.

    It is beside a local store. That of a remote one is in the folder that the environment variable
    ``STEPTRACE_JOURNALS`` names, ``~/.cache/steptrace/journals`` by default.

    Examples
    --------
    >>> journal_path("runs/a.zarr").as_posix()
    'runs/a.zarr.journal'
    """
    location = locate(store)
    if isinstance(location, Path):
        return location.with_name(location.name + ".journal")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get(JOURNALS_VARIABLE) or cache / "steptrace" / "journals")
    return folder / f"{location.name}-{xxhash.xxh3_64_hexdigest(location.url.encode())}.journal"
