"""The class of each sample that a training saw, where the targets are classes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from steptrace_analyzer.anomalies.signals import require
from steptrace_analyzer.trace.sample_statistics import sample_statistics
from steptrace_schema.names import BATCH, RECORDED_ID, STATISTIC, STEP, Y

if TYPE_CHECKING:
    import numpy.typing as npt

    from steptrace_analyzer.anomalies.signals import Signals


@dataclasses.dataclass(frozen=True)
class Categories:
    """The class of each sample of each step.

    Parameters
    ----------
    steps
        (step,).
    values
        Class, dims (step, row); -1 where it is not known.
    whole
        Whether the rows are those of the whole batch, else the recorded ones, which come first.
    """

    steps: npt.NDArray[np.int64]
    values: npt.NDArray[np.int64]
    whole: bool

    @property
    def known(self) -> int:
        """How many samples' classes are known, each time that one was seen."""
        return int((self.values >= 0).sum())


def categories(signals: Signals) -> Categories:
    """Return the class of every sample, from the statistics of samples or else from recorded rows.

    Targets of a cross entropy are classes where each sample has one whole number, or a row with a
    single one (one-hot), of which only the recorded rows are known.

    Raises
    ------
    NotJudgedError
        If the targets are no classes, or of several outputs.
    """
    return signals.once("categories", lambda: _categories(signals))


def _categories(signals: Signals) -> Categories:
    require("entropy" in (signals.attributes.loss or "").lower(), "the loss is no cross entropy")
    table = sample_statistics(signals.trace)
    names = [] if table is None else [str(name) for name in table.coords[STATISTIC].values]
    recorded = signals.tensor("inputs", Y) if signals.has("inputs", Y) else None
    one = recorded is not None and int(np.prod(recorded.shape[2:], dtype=int)) == 1
    column = f"{Y}/category" if f"{Y}/category" in names else f"{Y}/mean" if one else ""
    if table is not None and column in names:
        values = np.asarray(table.sel({STATISTIC: column}).transpose(STEP, BATCH), np.float64)
        steps, whole = np.asarray(table.coords[STEP], dtype=np.int64), True
    else:
        require(recorded is not None, "the trace holds no one array of targets")
        assert recorded is not None
        picked = signals.has("inputs", RECORDED_ID)
        require(not picked, "the recorded rows are picked by their ids, so that they are no sample")
        values = np.asarray(recorded, dtype=np.float64)
        values = values.reshape(*values.shape[:2], -1)
        if values.shape[2] > 1:
            hot = (np.sort(values, axis=2)[..., -2:] == [0, 1]).all(axis=2)
            require(hot.mean() > 0.5, "the targets are not one class for each sample")
            values = np.where(hot, values.argmax(axis=2), np.nan)
        else:
            values = values[..., 0]
        steps, whole = signals.steps("inputs"), False
    rows = np.isin(signals.batch_size.steps, steps)
    sizes = signals.batch_size.values[rows]
    if len(sizes) == len(steps):
        values = np.where(np.arange(values.shape[1]) < sizes, values, np.nan)
    valid = np.isfinite(values) & (values >= 0) & (values < 2**53)
    require(valid.any(), "no sample has a known class")
    integral = np.where(valid, values, 0) == np.round(np.where(valid, values, 0))
    require(integral.all(), "the targets are no classes")
    return Categories(steps, np.where(valid, values, -1).astype(np.int64), whole)
