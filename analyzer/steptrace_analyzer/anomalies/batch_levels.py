"""How hard each batch is: the loss of the best constant prediction on its own samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.baseline import constants, only_loss, targets
from steptrace_analyzer.anomalies.categories import categories
from steptrace_analyzer.anomalies.constant_losses import constant_losses
from steptrace_analyzer.anomalies.finding import NotJudgedError
from steptrace_analyzer.trace.sample_statistics import sample_statistics
from steptrace_schema.names import BATCH, STATISTIC, STEP, Y

if TYPE_CHECKING:
    import numpy.typing as npt

    from steptrace_analyzer.anomalies.signals import Signals
    from steptrace_schema.format.attributes import TargetLoss

    Floats = npt.NDArray[np.float64]

_ENTROPIES: Final = (
    "sparse_categorical_crossentropy",
    "categorical_crossentropy",
    "binary_crossentropy",
)


def batch_levels(signals: Signals, steps: npt.NDArray[np.int64]) -> Floats | None:
    """Return the loss that the best constant prediction of the run has on each step's batch.

    A run whose loss is far lower in one part than in another may only have had easier batches
    there: rare classes, or targets with long tails. None where the trace does not say the target of
    every sample: one class, or one number of a regression.
    """
    loss, constant = only_loss(signals), constants(signals)
    if loss is None or loss.target != Y or (constant is not None and constant.perfect):
        return None
    found = _targets(signals, str(loss.function))
    if found is None or not np.array_equal(found[0], steps):
        return None
    costs = _costs(loss, found[1])
    if costs is None:
        return None
    counts = np.isfinite(costs).sum(axis=1)
    if not counts.all():
        return None
    return np.asarray(loss.weight * np.nansum(costs, axis=1) / counts)


def _targets(signals: Signals, loss: str) -> tuple[npt.NDArray[np.int64], Floats] | None:
    """Return the steps, and the class or number of each sample, NaN beyond the end of a batch."""
    if loss in _ENTROPIES:
        try:
            classes = categories(signals)
        except NotJudgedError:
            return None
        values = np.where(classes.values >= 0, classes.values, np.nan)
        return (classes.steps, values) if classes.whole else None
    table, rows = sample_statistics(signals.trace), targets(signals)
    if table is None or rows is None or rows[0:1].size != 1:
        return None
    if f"{Y}/mean" not in table[STATISTIC]:
        return None
    values = np.asarray(table.sel({STATISTIC: f"{Y}/mean"}).transpose(STEP, BATCH), np.float64)
    return np.asarray(table.coords[STEP], dtype=np.int64), values


def _costs(loss: TargetLoss, values: Floats) -> Floats | None:
    """Return what each sample costs the best constant prediction of the run, None if not known."""
    known = np.isfinite(values)
    if loss.function in _ENTROPIES:
        _, places, counts = np.unique(values[known], return_inverse=True, return_counts=True)
        costs = -np.log(counts / counts.sum())[places]
    else:
        constant = constant_losses(str(loss.function), values[known], loss.config)
        if constant is None or constant.costs is None:
            return None
        costs = constant.costs
    spread = np.full(values.shape, np.nan)
    spread[known] = costs
    return spread
