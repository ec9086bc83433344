"""NaN and infinity: where they came from, and where they went."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from steptrace_analyzer.anomalies.findings import NonFinite, NonFiniteTensor
from steptrace_analyzer.anomalies.measurements import scalar, statistic
from steptrace_analyzer.trace.dataflow import Dataflow
from steptrace_analyzer.trace.select import tensor_paths
from steptrace_schema.names import ATTRIBUTES_KEY, KINDS, Kind

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr

_CAUSES: dict[Kind, str] = {
    "inputs": "the data itself is not finite",
    "activations": "the forward pass made it from inputs and weights that are finite as recorded",
    "probe": "the probe's forward pass made it from finite weights",
    "scalars": "it was computed from a forward pass that is finite as recorded",
    "activation_gradients": "the backward pass made it; the forward pass is finite as recorded",
    "gradients": "the backward pass made it; the forward pass is finite as recorded",
    "updates": "the optimizer made it from a gradient that is finite as recorded",
}


def find_non_finite(trace: xr.DataTree) -> list[NonFinite]:
    """Find where NaN and infinities appear first, one finding for the whole trace.

    Parameters
    ----------
    trace
        An opened trace; its statistics are read, and its scalars.
    """
    order = Dataflow.of(trace)

    def moment(tensor: NonFiniteTensor) -> tuple[int, tuple[int, int]]:
        return tensor.step, order.rank(tensor.kind, tensor.path)

    firsts: list[NonFiniteTensor] = []
    for kind in KINDS:
        found = _scalars(trace) if kind == "scalars" else _tensors(trace, kind)
        if found:
            firsts.append(min(found, key=moment))
    if not firsts:
        return []
    tensors = tuple(sorted(firsts, key=moment))
    return [NonFinite(tensors[0].step, tensors, _cause(trace, tensors[0]))]


def _tensors(trace: xr.DataTree, kind: Kind) -> list[NonFiniteTensor]:
    """Return every tensor of a kind that is not finite, at the first step that it is not."""
    nan, inf = statistic(trace, kind, "nan"), statistic(trace, kind, "inf")
    if nan is None or inf is None:
        return []
    counts = np.nan_to_num(nan.values) + np.nan_to_num(inf.values)  # NaN: not recorded then
    found = []
    for column in np.flatnonzero(counts.any(axis=0)).tolist():
        row = int(np.argmax(counts[:, column] > 0))
        found.append(
            NonFiniteTensor(
                kind=kind,
                path=nan.paths[column],
                step=int(nan.steps[row]),
                nan=int(np.nan_to_num(nan.values[row, column])),
                inf=int(np.nan_to_num(inf.values[row, column])),
            )
        )
    return found


def _scalars(trace: xr.DataTree) -> list[NonFiniteTensor]:
    found = []
    for path in tensor_paths(trace, "scalars"):
        series = scalar(trace, path)
        if series is None:
            continue
        values = series.values[:, 0]
        bad = ~np.isfinite(values) & ~_absent(trace, path, series.steps)
        if bad.any():
            row = int(np.argmax(bad))
            is_nan = bool(np.isnan(values[row]))
            step = int(series.steps[row])
            found.append(NonFiniteTensor("scalars", path, step, int(is_nan), int(not is_nan)))
    return found


def _absent(trace: xr.DataTree, path: str, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return at which of `steps` a scalar reads as NaN because it was not recorded."""
    absent = np.zeros(len(steps), dtype=bool)
    for entry in trace.root.attrs.get(ATTRIBUTES_KEY, {}).get("missing", ()):
        if (entry["kind"], entry["path"]) == ("scalars", path):
            at = entry.get("steps")
            absent |= True if at is None else np.isin(steps, at)
    return absent


def _cause(trace: xr.DataTree, first: NonFiniteTensor) -> str:
    if first.kind != "weights":
        return _CAUSES[first.kind]
    weights = statistic(trace, "weights", "nan")
    if weights is not None and first.step == int(weights.steps[0]):
        return "the first recorded weights already are not finite"
    return "the update of the step before made it from a gradient that is finite as recorded"
