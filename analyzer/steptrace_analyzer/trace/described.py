"""The statistics that a trace keeps of every tensor at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steptrace_schema.names import KINDS, STATISTICS, STATISTICS_VALUES, TENSOR

if TYPE_CHECKING:
    import xarray as xr

    from steptrace_schema.names import Kind


def statistics_table(trace: xr.DataTree, kind: Kind) -> xr.DataArray | None:
    """Return the statistics of a kind, None where the trace has none.

    Returns
    -------
    xarray.DataArray
        Dims (step, tensor, statistic), each with its coordinate; float64, lazy.

    Examples
    --------
    >>> statistics_table(trace, "gradients").sel(statistic="l2")  # doctest: +SKIP
    """
    group = trace.children.get(STATISTICS)
    node = None if group is None else group.children.get(kind)
    if node is None or STATISTICS_VALUES not in node.data_vars:
        return None
    return node.dataset[STATISTICS_VALUES]


def described_kinds(trace: xr.DataTree) -> list[Kind]:
    """Return the kinds that a trace has statistics of."""
    return [kind for kind in KINDS if statistics_table(trace, kind) is not None]


def described_tensors(table: xr.DataArray) -> list[str]:
    """Return the paths of the tensors that a table describes."""
    return [str(path) for path in table.coords[TENSOR].to_numpy()]
