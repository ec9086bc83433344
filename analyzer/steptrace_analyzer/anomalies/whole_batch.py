"""The inputs and targets of whole batches, where a trace has statistics of every sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from steptrace_analyzer.anomalies.measurements import Series, scalar, statistic
from steptrace_analyzer.trace.sample_statistics import sample_statistics
from steptrace_schema.names import BATCH, BATCH_SIZE, STATISTIC, STEP

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr

_FAR: Final = 5.0  # times the median size of a batch's rows: such a row is one apart
_FEW: Final = 0.25  # of the rows of a batch


def input_statistic(trace: xr.DataTree, name: Literal["mean", "std"]) -> Series | None:
    """Return a statistic of inputs and targets at every step, of the whole batch where known.

    Elsewhere it is that of the recorded rows.

    Parameters
    ----------
    trace
        An opened trace.
    name
        Mean, or standard deviation, over all elements.
    """
    recorded = statistic(trace, "inputs", name)
    if recorded is None:
        return None
    values = recorded.values.copy()
    for column, path in enumerate(recorded.paths):
        whole = _moments(trace, path, recorded.steps)
        if whole is not None:
            values[:, column] = whole[name]
    return Series(recorded.steps, recorded.paths, values)


def knows_whole_batch(trace: xr.DataTree, path: str) -> bool:
    """Whether :func:`input_statistic` is of the whole batch, for the input or target at `path`."""
    recorded = statistic(trace, "inputs", "mean")
    sizes = _column(trace, path, "rms")
    return (
        recorded is not None
        and sizes is not None
        and np.array_equal(np.asarray(sizes.coords[STEP]), recorded.steps)
    )


def sample_rows(
    trace: xr.DataTree, path: str, name: str, step: int
) -> npt.NDArray[np.float64] | None:
    """Return a statistic of each sample of a step's batch, dims (batch,); None where unknown.

    Examples
    --------
    >>> sample_rows(trace, "y", "category", 30)  # doctest: +SKIP
    array([3., 10., 2.])
    """
    found = _column(trace, path, name)
    if found is None or step not in found.coords[STEP]:
        return None
    size = scalar(trace, BATCH_SIZE)
    row = None if size is None else size.row(step)
    if size is None or row is None:
        return None
    values = np.asarray(found.sel({STEP: step}), dtype=np.float64)
    return values[: int(size.values[row, 0])]


def outstanding_rows(trace: xr.DataTree, path: str, step: int) -> tuple[int, ...]:
    """Return the rows of a batch that alone are far larger than the others, the largest first."""
    sizes = sample_rows(trace, path, "rms", step)
    if sizes is None or not len(sizes):
        return ()
    far = np.flatnonzero(sizes > _FAR * np.median(sizes))
    if not 0 < len(far) <= max(1, _FEW * len(sizes)):
        return ()
    return tuple(far[np.argsort(-sizes[far])].tolist())


def _column(trace: xr.DataTree, path: str, name: str) -> xr.DataArray | None:
    table = sample_statistics(trace)
    column = f"{path}/{name}"
    if table is None or column not in table.coords[STATISTIC]:
        return None
    return table.sel({STATISTIC: column})


def _moments(
    trace: xr.DataTree, path: str, steps: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.float64]] | None:
    """Return mean and standard deviation of whole batches, None where some steps have none."""
    means, sizes = _column(trace, path, "mean"), _column(trace, path, "rms")
    counts = scalar(trace, BATCH_SIZE)
    if means is None or sizes is None or counts is None:
        return None
    if not np.array_equal(np.asarray(means.coords[STEP]), steps):
        return None
    if not np.isin(steps, counts.steps).all():
        return None
    count = counts.values[np.searchsorted(counts.steps, steps), 0]
    mean = _mean_of_rows(means, count)
    with np.errstate(invalid="ignore"):
        variance = np.maximum(_mean_of_rows(sizes * sizes, count) - mean * mean, 0.0)
    return {"mean": mean, "std": np.sqrt(variance)}


def _mean_of_rows(table: xr.DataArray, count: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the mean over the rows of each batch, which may be shorter than the table."""
    inside = np.arange(table.sizes[BATCH]) < count[:, np.newaxis]
    kept: Any = table.where(inside, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.asarray(kept.sum(BATCH, skipna=False), dtype=np.float64)
        return np.asarray(total / count)
