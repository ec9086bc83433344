"""Deleting a trace, or what a killed writer left of one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from steptrace_schema.names import METADATA_FILE
from steptrace_schema.storage.contents import file_sizes
from steptrace_schema.storage.object_store import Remote, object_store_errors

if TYPE_CHECKING:
    from steptrace_schema.storage.location import Location

    pass


def delete(location: Location) -> None:
    """Delete the trace at `location`, its root first, so that a part of it is no trace."""
    if isinstance(location, Remote):
        from obstore import delete as delete_objects

        with object_store_errors(location):
            names = sorted(file_sizes(location), key=lambda name: name != METADATA_FILE)
            for name in names:
                delete_objects(location.objects, name)
    elif location.is_dir():
        shutil.rmtree(location)
    else:
        location.unlink()


def sweep(location: Location) -> None:
    """Delete what a killed writer left under temporary names; object stores have none."""
    if isinstance(location, Path):
        for left in location.rglob("*.partial"):
            left.unlink()
