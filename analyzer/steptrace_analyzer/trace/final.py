"""The weights that a model ended with, which need not be those that the last step left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xarray as xr

from steptrace_analyzer.trace.open import opened, trace_attributes
from steptrace_analyzer.trace.select import tensor_paths
from steptrace_schema.errors import DamagedTraceError, TraceError
from steptrace_schema.names import FINAL, STEP

if TYPE_CHECKING:
    from steptrace_analyzer.trace.open import TraceOrPath


def final_weights(trace: TraceOrPath) -> dict[str, xr.DataArray]:
    """Return the weights that the model ended with, lazy.

    Those that nothing replaced after the last step are the last row of ``weights``.

    Parameters
    ----------
    trace
        A trace, or its path.

    Returns
    -------
    dict
        Path inside ``weights`` to an array with the dimensions of the weight.

    Raises
    ------
    TraceError
        If that is unknown: the run did not reach its end, or what replaced the weights is not
        stored.
    DamagedTraceError
        If it is said to be stored, and is not there.

    Examples
    --------
    >>> final_weights("run.zarr")["net/dense/kernel"].shape  # doctest: +SKIP
    (64, 10)
    """
    trace = opened(trace)
    final = trace_attributes(trace).final
    name = trace.name or "the trace"
    if final is None:
        msg = (
            f"{name} does not say which weights the model ended with; only a fit that reached its "
            "end does, recorded in format 1.3"
        )
        raise TraceError(msg)
    if final.not_kept is not None:
        msg = f"{name} does not have the weights that the model ended with: {final.not_kept}"
        raise TraceError(msg)
    found = {path: _array(trace, f"weights/{path}").isel({STEP: -1}) for path in _weights(trace)}
    return found | {path: _array(trace, f"{FINAL}/{path}") for path in final.arrays}


def _array(trace: xr.DataTree, key: str) -> xr.DataArray:
    try:
        found = trace[key]
    except KeyError:
        found = None
    if not isinstance(found, xr.DataArray):
        msg = f"{trace.name}: there is no array '{key}'; copy the trace again from its source"
        raise DamagedTraceError(msg)
    return found


def _weights(trace: xr.DataTree) -> list[str]:
    node = trace.children.get("weights")
    return tensor_paths(trace, "weights") if node is not None and node.sizes.get(STEP) else []
