"""NaN and infinity: where they came from, and where they went."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from steptrace_analyzer.anomalies.measurements import scalar, statistic
from steptrace_analyzer.anomalies.skipped import skipped_steps, without_skipped
from steptrace_analyzer.trace.dataflow import Dataflow
from steptrace_analyzer.trace.select import get_tensor, tensor_paths
from steptrace_schema.names import ATTRIBUTES_KEY, KINDS, Kind

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr


@dataclasses.dataclass(frozen=True)
class NonFiniteTensor:
    """The first tensor of a kind that has a NaN or an infinity."""

    kind: Kind
    path: str
    step: int
    nan: int
    """Elements that are NaN."""
    inf: int
    """Elements that are infinite."""


def first_non_finite(trace: xr.DataTree) -> tuple[NonFiniteTensor, ...]:
    """Return the first tensor of each kind that is not finite, in the order of the dataflow.

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
        found = [*_tensors(trace, kind), *_numbers(trace, kind)]
        if found:
            firsts.append(min(found, key=moment))
    return tuple(sorted(firsts, key=moment))


def _tensors(trace: xr.DataTree, kind: Kind) -> list[NonFiniteTensor]:
    """Return every tensor of a kind that is not finite, at the first step that it is not."""
    nan, inf = statistic(trace, kind, "nan"), statistic(trace, kind, "inf")
    if nan is None or inf is None:
        return []
    skipped = skipped_steps(trace)
    nan, inf = (without_skipped(series, kind, skipped) for series in (nan, inf))
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


def _numbers(trace: xr.DataTree, kind: Kind) -> list[NonFiniteTensor]:
    """Return every single number of a kind that is not finite, at the first step that it is not.

    What was logged reads as NaN at steps at which something else was logged, so that only an
    infinity is sure there, and a NaN where nothing else is logged.
    """
    if kind not in ("scalars", "validation", "logged"):  # others have statistics
        return []
    found = []
    paths = [path for path in tensor_paths(trace, kind) if get_tensor(trace, kind, path).ndim == 1]
    alone = len(tensor_paths(trace, kind)) == 1
    for path in paths:
        series = scalar(trace, path, kind)
        if series is None:
            continue
        values = series.values[:, 0]
        bad = np.isinf(values)
        if kind != "logged" or alone:
            bad |= np.isnan(values) & ~_absent(trace, kind, path, series.steps)
        if bad.any():
            row = int(np.argmax(bad))
            is_nan = bool(np.isnan(values[row]))
            step = int(series.steps[row])
            found.append(NonFiniteTensor(kind, path, step, int(is_nan), int(not is_nan)))
    return found


def _absent(
    trace: xr.DataTree, kind: Kind, path: str, steps: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Return at which of `steps` a number reads as NaN because it was not recorded."""
    absent = np.zeros(len(steps), dtype=bool)
    for entry in trace.root.attrs.get(ATTRIBUTES_KEY, {}).get("missing", ()):
        if (entry["kind"], entry["path"]) == (kind, path):
            at = entry.get("steps")
            absent |= True if at is None else np.isin(steps, at)
    return absent
