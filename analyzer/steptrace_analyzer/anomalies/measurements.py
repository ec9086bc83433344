"""Reading the series of small numbers that faults are looked for in."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_analyzer.trace.described import described_tensors, statistics_table
from steptrace_analyzer.trace.select import get_tensor, recorded_steps, tensor_paths
from steptrace_schema.names import STATISTIC, STEP, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import xarray as xr

    from steptrace_schema.names import StatisticName


@dataclasses.dataclass(frozen=True)
class Series:
    """One number per recorded step and tensor."""

    steps: npt.NDArray[np.int64]
    """(step,), ascending."""
    paths: tuple[str, ...]
    values: npt.NDArray[np.float64]
    """(step, tensor)."""

    def row(self, step: int) -> int | None:
        """Return the row of a step, None where it is not recorded."""
        row = int(np.searchsorted(self.steps, step))
        return row if row < len(self.steps) and self.steps[row] == step else None

    def of(self, path: str) -> Series | None:
        """Return the series of one tensor."""
        if path not in self.paths:
            return None
        column = self.paths.index(path)
        return Series(self.steps, (path,), self.values[:, column : column + 1])


def statistic(trace: xr.DataTree, kind: Kind, name: StatisticName) -> Series | None:
    """Return a statistic of every tensor of a kind, or None where the trace keeps none."""
    values = statistics_table(trace, kind)
    if values is None or name not in values.coords[STATISTIC]:
        return None
    return Series(
        np.asarray(values.coords[STEP], dtype=np.int64),
        tuple(described_tensors(values)),
        np.asarray(values.sel({STATISTIC: name}), dtype=np.float64),
    )


def statistics(
    trace: xr.DataTree, kind: Kind, names: Sequence[StatisticName]
) -> dict[StatisticName, Series]:
    """Return several statistics of a kind, read in one go; none where the trace keeps none."""
    table = statistics_table(trace, kind)
    if table is None:
        return {}
    known = [name for name in names if name in table.coords[STATISTIC]]
    steps = np.asarray(table.coords[STEP], dtype=np.int64)
    paths = tuple(described_tensors(table))
    values = np.asarray(table.sel({STATISTIC: known}), dtype=np.float64)
    # A copy of each: a view of one would keep all of them in memory.
    return {
        name: Series(steps, paths, values[:, :, place].copy()) for place, name in enumerate(known)
    }


def norms(trace: xr.DataTree, kind: Kind) -> Series | None:
    """Return the L2 norm of every tensor of a kind, from its statistics or else its values."""
    kept = statistic(trace, kind, "l2")
    if kept is not None:
        return kept
    paths = [p for p in tensor_paths(trace, kind) if get_tensor(trace, kind, p).dims[:1] == (STEP,)]
    if not paths:
        return None
    steps = np.array(recorded_steps(trace.children[kind]), dtype=np.int64)
    columns = [_row_norms(get_tensor(trace, kind, path)) for path in paths]
    return Series(steps, tuple(paths), np.stack(columns, axis=1))


def scalar(trace: xr.DataTree, path: str, kind: Kind = "scalars") -> Series | None:
    """Return a number of each step, or None where the trace has none of that name."""
    if path not in tensor_paths(trace, kind):
        return None
    array = get_tensor(trace, kind, path)
    steps = np.asarray(array.coords[STEP], dtype=np.int64)
    return Series(steps, (path,), np.asarray(array, dtype=np.float64)[:, np.newaxis])


def _row_norms(array: xr.DataArray) -> npt.NDArray[np.float64]:
    data: Any = array.astype(np.float64)
    dims: Sequence[str] = [dim for dim in data.dims if dim != STEP]
    return np.asarray(np.sqrt((data * data).sum(dims, skipna=False)))
