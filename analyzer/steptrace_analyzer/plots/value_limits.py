"""The smallest and the largest value of tensors over steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from steptrace_analyzer.plots.limits import padded_range
from steptrace_analyzer.trace.described import described_tensors, statistics_table
from steptrace_analyzer.trace.select import get_tensor, recorded_steps, resolve_step

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from steptrace_schema.names import Kind


def value_limits(
    trace: xr.DataTree,
    kind: Kind,
    paths: Sequence[str],
    steps: Sequence[int],
    *,
    most_read: int | None = None,
) -> tuple[float, float]:
    """Return the smallest and the largest finite value of some tensors, a little widened.

    Parameters
    ----------
    trace
        An opened trace. Where it has statistics of the tensors, nothing else is read.
    kind, paths
        The tensors.
    steps
        Recorded steps to look at.
    most_read
        How many steps of a tensor without statistics are read at most, evenly taken; all if None.
    """
    table = statistics_table(trace, kind)
    if table is not None:
        names = described_tensors(table)
        columns = [names.index(path) for path in paths if path in names]
        rows = np.flatnonzero(np.isin(recorded_steps(table), steps))
        if columns and rows.size:
            ends = table.isel(tensor=columns, step=rows).sel(statistic=["min", "max"])
            return padded_range(np.asarray(ends.to_numpy(), dtype=np.float64))
    count = len(steps) if most_read is None else min(len(steps), most_read)
    places = np.linspace(0, len(steps) - 1, count).round().astype(int)
    found = []
    for path in paths:
        array = get_tensor(trace, kind, path)
        for step in (steps[place] for place in places):
            values = array.sel(step=resolve_step(array, step)).to_numpy()
            known = values[np.isfinite(values)]
            found += [known.min(), known.max()] if known.size else []
    return padded_range(np.asarray(found))
