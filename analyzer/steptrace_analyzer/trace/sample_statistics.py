"""The few numbers that a trace has of every sample of every batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from steptrace_schema.names import BATCH, SAMPLE_STATISTICS, STATISTIC, STEP

if TYPE_CHECKING:
    import xarray as xr

    from steptrace_schema.format.attributes import TraceAttributes


def with_sample_statistics(
    datasets: dict[str, xr.Dataset], attributes: TraceAttributes
) -> dict[str, xr.Dataset]:
    """Return the groups of a trace, in which the statistics of samples have their names."""
    inputs = datasets.get("inputs")
    if inputs is None or SAMPLE_STATISTICS not in inputs:
        return datasets
    names = attributes.sample_statistics
    if inputs[SAMPLE_STATISTICS].dims != (STEP, BATCH, STATISTIC) or len({*names}) != len(names):
        return datasets
    if inputs.sizes[STATISTIC] != len(names):
        return datasets
    return {**datasets, "inputs": inputs.assign_coords({STATISTIC: list(names)})}


def sample_statistics(trace: xr.DataTree) -> xr.DataArray | None:
    """Return the statistics of every sample of every batch, lazy.

    Parameters
    ----------
    trace
        An opened trace.

    Returns
    -------
    xarray.DataArray or None
        Dims (step, batch, statistic), float64; NaN beyond the end of a batch. The coordinate
        ``statistic`` has names such as ``x/rms``, ``x/mean``, ``x/largest``, ``x/nan``, ``x/inf``
        and ``y/category``. None where the trace has none.

    Examples
    --------
    >>> sizes = sample_statistics(trace).sel(statistic="x/rms")  # doctest: +SKIP
    >>> int(sizes.sel(step=60).argmax())  # the largest sample of the batch  # doctest: +SKIP
    20
    """
    inputs = trace.children.get("inputs")
    if inputs is None or SAMPLE_STATISTICS not in inputs.data_vars:
        return None
    found = cast("xr.DataArray", inputs[SAMPLE_STATISTICS])
    return found if STATISTIC in found.coords else None
