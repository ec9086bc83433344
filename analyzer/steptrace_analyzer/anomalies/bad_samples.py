"""Single samples of a batch that are not finite, or whose label is none of the classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.whole_batch import sample_rows
from steptrace_analyzer.anomalies.words import listed
from steptrace_analyzer.trace.sample_statistics import sample_statistics
from steptrace_schema.names import STATISTIC, STEP, Y

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import xarray as xr

    from steptrace_analyzer.anomalies.signals import Signals

_FEW: Final = 0.25  # of the rows of a batch: so many are named


def bad_samples(trace: xr.DataTree) -> Iterator[tuple[int, str, int, int]]:
    """Yield step, path, and numbers of NaN and infinite elements, of inputs and targets.

    All rows of the batch are looked at, also those that are not recorded. Nothing where the trace
    has no statistics of every sample.
    """
    table = sample_statistics(trace)
    if table is None:
        return
    names = [str(name) for name in table.coords[STATISTIC].values]
    steps = np.asarray(table.coords[STEP])
    for path in (name.removesuffix("/nan") for name in names if name.endswith("/nan")):
        columns = table.sel({STATISTIC: [f"{path}/nan", f"{path}/inf"]})
        counts = np.asarray(columns.sum("batch"), dtype=np.float64)  # NaN: beyond the batch
        for row in np.flatnonzero(counts.sum(axis=1) > 0):
            nan, inf = counts[row].astype(int).tolist()
            yield int(steps[row]), path, nan, inf


def bad_rows(trace: xr.DataTree, path: str, step: int) -> list[int] | None:
    """Return the rows of a step's batch with elements that are not finite, where they are few.

    None where the trace does not say it of every row.
    """
    nan, inf = (sample_rows(trace, path, name, step) for name in ("nan", "inf"))
    if nan is None or inf is None:
        return None
    rows = np.flatnonzero(nan + inf > 0)
    return rows.tolist() if len(rows) <= max(1, _FEW * len(nan)) else []


def category_outside(signals: Signals, step: int, rows: Sequence[int]) -> str | None:
    """Say that the labels of rows are none of the classes that the model has; None if they are.

    The classes are counted by the units of the last layer.
    """
    labels = sample_rows(signals.trace, Y, "category", step)
    layers = signals.attributes.layers
    shape = layers[-1].output_shape if layers else None
    if labels is None or not shape or len(shape) < 2 or not shape[-1] or shape[-1] < 2:
        return None
    units = int(shape[-1])
    outside = [row for row in rows if not 0 <= labels[row] < units]
    if not outside:
        return None
    values = listed([int(labels[row]) for row in outside])
    subject = "their labels are" if len(outside) > 1 else "its label is"
    return f"{subject} {values}, and the model has {units} classes, 0 to {units - 1}"
