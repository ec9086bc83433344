"""What is unusual about the batch of a step: its inputs, its targets, the losses of its samples."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from steptrace_analyzer.anomalies.finding import NotJudgedError
from steptrace_analyzer.anomalies.scores import WINDOW, log_sizes, trailing_scores
from steptrace_analyzer.anomalies.trends import known_median
from steptrace_analyzer.anomalies.whole_batch import knows_whole_batch, outstanding_rows
from steptrace_analyzer.anomalies.words import listed, number, ratio_of, times
from steptrace_analyzer.trace.batch import is_target, measured_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_analyzer.anomalies.measurements import Series
    from steptrace_analyzer.anomalies.signals import Signals

UNUSUAL: Final = 5.0
"""Score from which on a property of a batch is unusual at a step at which something else is."""
LEAST_SAMPLES: Final = 8
"""Losses of fewer samples are not compared."""
SMALL: Final = 0.01
"""Of the usual size: from here on the rows of a batch are too small to be chance."""
HISTORY: Final = 20
"""Batches that the losses of one are compared with."""

_SIZE_FLOOR: Final = 1e-6  # a size of zero is scored as this part of the usual size
_MEAN_FLOOR: Final = 0.25  # of the usual size: how far a mean may wander unnoticed
_TAIL: Final = 0.9  # quantile of the losses before, above which a loss is high


@dataclasses.dataclass(frozen=True)
class InputChange:
    """A property of one input or target against the steps before.

    It is that of the whole batch where the trace has statistics of every sample, else that of the
    recorded rows.
    """

    path: str
    quantity: Literal["size", "spread", "mean"]
    """Root mean square, standard deviation, or mean of all elements."""
    value: float
    usual: float
    z: float
    whole: bool = False
    """Whether it is of all rows of the batch."""
    rows: tuple[int, ...] = ()
    """Rows that alone are far larger than the others, where they are few."""

    @property
    def text(self) -> str:
        """The change in words."""
        noun = "targets" if is_target(self.path) else "inputs"
        name = noun if self.path in ("x", "y") else f"{noun} '{self.path[2:]}'"
        if self.quantity == "mean":
            usual = number(self.usual)
            return f"the batch's {name} had a mean of {number(self.value)} instead of {usual}"
        if not self.value:
            what = "zero" if self.quantity == "size" else "the same number"
            rows = "" if self.whole else "the recorded rows of "
            return f"{rows}the batch's {name} were all {what}"
        what = "as large" if self.quantity == "size" else "as spread out"
        text = f"the batch's {name} were {times(self.value / self.usual)} {what} as usual"
        if self.rows and self.value > self.usual:
            text += f", because of row{'s' * (len(self.rows) > 1)} {listed(self.rows)}"
        return text


@dataclasses.dataclass(frozen=True)
class LossChange:
    """The losses of a batch's samples against those of the batches before."""

    samples: int
    high: int
    """Samples whose loss is above nine tenths of the losses before."""
    median: float
    usual: float
    """Median of the losses before."""
    seen: int
    """Samples that earlier batches had too, by the digests of their inputs."""
    seen_loss: float | None
    """Median of the loss that these samples had when they were last seen."""
    rows: tuple[int, ...]
    """Where only a few samples are far out: their places in the batch, the largest loss first."""

    @property
    def all_high(self) -> bool:
        """Whether the batch as a whole is harder than those before, rather than a few samples."""
        return self.high >= max(0.5 * self.samples, 4) and self.median > 1.3 * self.usual


def numeric_inputs(signals: Signals) -> tuple[str, ...]:
    """Return the paths of inputs and targets whose numbers are magnitudes.

    Class ids and token ids are categories: their mean and spread say nothing. Targets of a cross
    entropy are such, also where they are floats.
    """
    entropy = "entropy" in (signals.attributes.loss or "").lower()
    return signals.once(
        "numeric inputs",
        lambda: tuple(
            path for path in measured_arrays(signals.trace) if not (entropy and is_target(path))
        ),
    )


def input_scores(signals: Signals) -> Iterator[tuple[int, InputChange]]:
    """Yield the size of every input and target at every step that has a score.

    Raises
    ------
    NotJudgedError
        If the trace holds no statistics of inputs.
    """
    means, stds = signals.input_statistic("mean"), signals.input_statistic("std")
    for path in numeric_inputs(signals):
        mean, std = means.of(path), stds.of(path)
        if mean is None or std is None:
            continue
        whole = knows_whole_batch(signals.trace, path)
        sizes = np.hypot(mean.values, std.values)
        scores = trailing_scores(log_sizes(sizes))
        usual = np.exp(scores.median[:, 0])
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.maximum(sizes[:, 0] / usual, _SIZE_FLOOR)
            z = np.log(ratio) / scores.scale[:, 0]
            rows = np.flatnonzero(np.isfinite(z) & (np.abs(z) > UNUSUAL))
        for row in rows.tolist():
            value, before, step = float(sizes[row, 0]), float(usual[row]), int(mean.steps[row])
            far = outstanding_rows(signals.trace, path, step) if whole else ()
            yield step, InputChange(path, "size", value, before, float(z[row]), whole, far)


def same_inputs(signals: Signals, row: int) -> list[int]:
    """Return the last few steps before a row of the digests whose batches share samples with it."""
    try:
        steps, digests = signals.digests
    except NotJudgedError:
        return []
    wanted = digests[row][digests[row] != -1]
    shared = np.isin(digests[:row], wanted).any(axis=1)
    return [int(step) for step in steps[:row][shared][-LEAST_SAMPLES:]]


def input_change(signals: Signals, step: int) -> InputChange | None:
    """Return what is most unusual about a step's batch, or about its recorded rows.

    A size says more than a spread, and that more than a mean, where all are unusual.

    Returns
    -------
    InputChange or None
        The likeliest property; whether it is unusual, its `z` says. None where nothing is
        recorded, or the history is too short.
    """
    try:
        means, stds = signals.input_statistic("mean"), signals.input_statistic("std")
    except NotJudgedError:
        return None
    found: list[InputChange] = []
    for path in numeric_inputs(signals):
        mean, std = _until(means, path, step), _until(stds, path, step)
        if mean is None or std is None:
            continue
        size = np.hypot(mean, std)
        usual = float(np.nan_to_num(known_median(size[:-1])))
        found += _sized(path, "size", size)
        found += _sized(path, "spread", std)
        scores = trailing_scores(mean[:, np.newaxis], floor=max(_MEAN_FLOOR * usual, 1e-30))
        z, median = float(scores.z[-1, 0]), float(scores.median[-1, 0])
        if np.isfinite(z):
            found.append(InputChange(path, "mean", float(mean[-1]), median, z))
    found = [_with_rows(signals, step, change) for change in found]
    unusual = (each for each in found if abs(each.z) > UNUSUAL)
    return next(unusual, max(found, key=lambda each: abs(each.z), default=None))


def _with_rows(signals: Signals, step: int, change: InputChange) -> InputChange:
    """Return a change that knows whether it is of the whole batch, and of which rows."""
    if not knows_whole_batch(signals.trace, change.path):
        return change
    far = outstanding_rows(signals.trace, change.path, step) if change.quantity == "size" else ()
    return dataclasses.replace(change, whole=True, rows=far)


def loss_change(signals: Signals, step: int) -> LossChange | None:
    """Compare the losses of a step's samples with those of the batches before, and of themselves.

    Returns
    -------
    LossChange or None
        None where the losses of single samples are not recorded, or too few of them.
    """
    try:
        steps, losses = signals.sample_losses
    except NotJudgedError:
        return None
    row = int(np.searchsorted(steps, step))
    if row >= len(steps) or steps[row] != step or row < HISTORY // 2:
        return None
    now = losses[row]
    places = np.flatnonzero(np.isfinite(now))
    before = losses[max(0, row - HISTORY) : row]
    before = before[np.isfinite(before)]
    if len(places) < LEAST_SAMPLES or len(before) < 4 * LEAST_SAMPLES:
        return None
    high = now[places] > np.quantile(before, _TAIL)
    far = np.median(before) + 20 * (np.quantile(before, _TAIL) - np.median(before))
    outliers = places[now[places] > far]
    seen = _losses_before(signals, row)
    return LossChange(
        samples=len(places),
        high=int(high.sum()),
        median=float(np.median(now[places])),
        usual=float(np.median(before)),
        seen=len(seen),
        seen_loss=float(np.median(seen)) if len(seen) else None,
        rows=tuple(int(i) for i in outliers[np.argsort(-now[outliers])][: LEAST_SAMPLES // 2])
        if len(outliers) <= len(places) // 4
        else (),
    )


def _losses_before(signals: Signals, row: int) -> npt.NDArray[np.float64]:
    """Return the last losses, before `row`, of those of its samples that were seen before."""
    try:
        _, digests = signals.digests
    except NotJudgedError:
        return np.zeros(0)
    _, losses = signals.sample_losses
    earlier, known = digests[:row].ravel(), losses[:row].ravel()
    wanted = np.isin(earlier, digests[row][digests[row] != -1]) & np.isfinite(known)
    latest = dict(zip(earlier[wanted].tolist(), known[wanted].tolist(), strict=True))
    return np.asarray(list(latest.values()), dtype=np.float64)


def _sized(
    path: str, name: Literal["size", "spread"], values: npt.NDArray[np.float64]
) -> list[InputChange]:
    positive = np.where(values > 0, values, np.nan)
    with np.errstate(invalid="ignore"):
        scores = trailing_scores(np.log(positive)[:, np.newaxis])
    usual, scale = float(np.exp(scores.median[-1, 0])), float(scores.scale[-1, 0])
    if not np.isfinite(usual) or not np.isfinite(values[-1]):
        return []
    ratio = ratio_of(float(values[-1]), usual)
    z = float(np.log(max(ratio, _SIZE_FLOOR)) / scale)
    # Few rows are small, or alike, together now and then.
    if name == "spread" or ratio > SMALL:
        z = max(z, -UNUSUAL)
    return [InputChange(path, name, float(values[-1]), usual, z)]


def _until(series: Series, path: str, step: int) -> npt.NDArray[np.float64] | None:
    """Return a tensor's values at the steps of a window that ends with `step`."""
    one, row = series.of(path), series.row(step)
    return None if one is None or row is None else one.values[max(0, row - WINDOW) : row + 1, 0]
