"""How sensitive a model is to its input: the gradients of its layers, one above the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import xarray as xr

from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import resolve_step, tensor_paths
from steptrace_schema.errors import UnknownNameError
from steptrace_schema.names import SALIENCY, Kind

if TYPE_CHECKING:
    from steptrace_analyzer.trace.open import TraceOrPath

_KIND: Final[Kind] = "probe_gradients"


def total_gradient(trace: TraceOrPath, step: int = -1) -> xr.DataArray:
    """Return dz/dx of every layer at one step, for the samples of the probe.

    z is one unit of the layer's activation: for each sample the one with the largest mean
    activation, unless the trace's policy names one. x is the model's input.

    Parameters
    ----------
    trace
        A trace that holds the kind ``probe_gradients``, or its path.
    step
        Number of a recorded step, or -1 for the last one, -2 for the one before, and so on.

    Returns
    -------
    xarray.DataArray
        Dims (layer, sample, *dims of the input), with the layers' paths as coordinate ``layer``, in
        the order of the model; lazy.

    Raises
    ------
    UnknownNameError
        If the trace has no such gradients, or not at this step.

    Examples
    --------
    >>> total_gradient("run.zarr", step=40).sel(layer="net/dense")  # doctest: +SKIP
    """
    trace = opened(trace)
    paths = [path for path in tensor_paths(trace, _KIND) if path.endswith(f"/{SALIENCY}")]
    if not paths:
        msg = (
            f"the trace holds no '{_KIND}'; record it with "
            f"Tracer(..., kinds=(*DEFAULT_KINDS, '{_KIND}'))"
        )
        raise UnknownNameError(msg)
    number = resolve_step(trace[_KIND], step)
    layers = [trace[f"{_KIND}/{path}"].sel(step=number) for path in paths]
    dims = layers[0].dims
    # The same dimension may have another name where another array of the group has it, too.
    alike = [one.rename(dict(zip(one.dims, dims, strict=True))) for one in layers]
    names = [path.removesuffix(f"/{SALIENCY}") for path in paths]
    return xr.concat(alike, xr.Variable("layer", names), coords="minimal", join="override")
