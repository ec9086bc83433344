"""The steps that an optimizer skipped because of its loss scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.measurements import scalar, statistics
from steptrace_analyzer.trace.batch import is_input_gradient
from steptrace_schema.names import LOSS, LOSS_SCALE, SKIPPED, Kind

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.anomalies.measurements import Series

_BACKWARD: Final[tuple[Kind, ...]] = ("activation_gradients", "gradients")
_KEPT: Final[tuple[Kind, ...]] = ("weights", "updates")  # not finite: the step was not skipped


def skipped_steps(trace: xr.DataTree) -> npt.NDArray[np.int64]:
    """Return the steps whose gradients were not finite, so that the optimizer skipped them.

    Traces of versions before 1.3 do not say it: there these are the steps with a loss scale and
    gradients that are not finite, and with a loss and weights that are.

    Parameters
    ----------
    trace
        An opened trace. Its scalars are read, and its statistics where it is of an old version.
    """
    own = scalar(trace, SKIPPED)
    if own is not None:
        skipped: npt.NDArray[np.int64] = own.steps[own.values[:, 0] == 1]
        return skipped
    scale = scalar(trace, LOSS_SCALE)
    if scale is None:
        return np.zeros(0, np.int64)
    overflowed = set(_not_finite(trace, "gradients"))
    for kind in _KEPT:
        overflowed -= set(_not_finite(trace, kind))
    loss = scalar(trace, LOSS)
    if loss is not None:
        overflowed -= set(loss.steps[~np.isfinite(loss.values[:, 0])].tolist())
    return np.array(sorted(overflowed & set(scale.steps.tolist())), dtype=np.int64)


def without_skipped(series: Series, kind: Kind, skipped: npt.NDArray[np.int64]) -> Series:
    """Return a series of a kind's tensors with NaN where the backward pass counted for nothing.

    NaN stands for a tensor that has no value at a step. Other kinds are returned as they are.
    """
    columns = [
        column
        for column, path in enumerate(series.paths)
        if kind in _BACKWARD or (kind == "inputs" and is_input_gradient(path))
    ]
    rows = np.isin(series.steps, skipped)
    if not columns or not rows.any():
        return series
    values = series.values.copy()
    values[np.flatnonzero(rows)[:, np.newaxis], columns] = np.nan
    return type(series)(series.steps, series.paths, values)


def _not_finite(trace: xr.DataTree, kind: Kind) -> list[int]:
    """Return the steps at which any tensor of a kind is not finite."""
    found = statistics(trace, kind, ("nan", "inf"))
    if not found:
        return []
    counts = sum(np.nan_to_num(series.values).sum(axis=1) for series in found.values())
    steps: list[int] = found["nan"].steps[counts > 0].tolist()
    return steps
