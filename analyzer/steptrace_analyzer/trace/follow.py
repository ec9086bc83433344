"""Watching a trace while it is recorded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from steptrace_analyzer.trace.open import open_trace, trace_attributes
from steptrace_schema.errors import NotATraceError
from steptrace_schema.names import STEP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import xarray as xr

    from steptrace_schema.storage.location import Location


def follow(
    path: str | Location,
    interval: float = 1.0,
    wait: Callable[[float], object] = time.sleep,
) -> Iterator[xr.DataTree]:
    """Open a trace again whenever it has new steps, until its run has ended.

    An opened trace never changes; each one that is yielded holds all steps of the one before, bit
    by bit, and later ones. Where the policy has ``retain`` or ``disk_limit``, steps that are not
    kept lose their tensors as they move into the store; their scalars and statistics stay. Begin
    before the training does, or at any time after.

    Parameters
    ----------
    path
        As for :func:`open_trace`; there need not be a trace yet.
    interval
        Seconds between two looks.
    wait
        Lets `interval` seconds pass.

    Yields
    ------
    xarray.DataTree
        The trace as it is now, as :func:`open_trace` returns it. The last one is that of the run
        that has ended; its status says how.

    Examples
    --------
    >>> for trace in follow("run.zarr"):  # doctest: +SKIP
    ...     print(float(trace["scalars/loss"][-1]))
    """
    seen = -1
    while True:
        trace = _open(path)
        if trace is not None:
            steps = trace["scalars"].sizes[STEP] if "scalars" in trace.children else 0
            ended = trace_attributes(trace).status != "recording"
            if steps > seen or ended:
                seen = steps
                yield trace
            if ended:
                return
        wait(interval)


def _open(path: str | Location) -> xr.DataTree | None:
    try:
        return open_trace(path)
    except NotATraceError:  # its first step has not been recorded yet
        return None
