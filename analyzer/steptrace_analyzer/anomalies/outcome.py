"""What came of a training: whether it learned, got worse, or solved its task."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.baseline import constants
from steptrace_analyzer.anomalies.batch_levels import batch_levels
from steptrace_analyzer.anomalies.finding import NotJudgedError
from steptrace_analyzer.anomalies.trends import block_means, mann_kendall

if TYPE_CHECKING:
    import numpy.typing as npt

    from steptrace_analyzer.anomalies.signals import Signals

TAIL: Final = 20
"""Steps that a run's end is judged by."""
LEAST_STEPS: Final = 100
"""Shorter runs may not have learned anything yet."""
UNLEARNED: Final = 0.97
"""Of the loss of the best constant prediction: above it nothing was learned."""
WORSE: Final = 1.5
"""Of the least median of the loss: from here on it has got worse."""
LITTLE: Final = 0.6
"""Of the same loss: above it so little was learned that a cause which is known is an error."""
SOLVED: Final = 0.05
"""Of the same loss: below it the task is solved, and small gradients are as they should be."""

_REACHED: Final = 0.9  # of the loss of the best constant prediction: below it something was learned
_HUGE: Final = 1e12  # stands for infinity in sums
_ROUNDING: Final = 1e-2  # of a loss, as sums of bfloat16 are off
_SOME: Final = 0.1  # of the steps
_QUARTERS: Final = 4.5  # from the middle of the last one to the end of a run twice as long
_CHANCE: Final = 0.05  # of a trend as clear where there is none


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The course of a loss in a few numbers."""

    steps: int
    first: float
    """The loss before the first update."""
    best: float
    """Least median of 20 steps in a row."""
    best_step: int
    """Last step of those."""
    last: float
    """Median of the last 20 losses; infinite where most of them are not finite."""
    trivial: float | None
    """Loss of the best constant prediction, where it is known."""
    end: float
    """Mean of the losses of the last tenth of the run, of 20 steps at least.

    It is freed of how hard these batches are, where that is known; so is `reached`.
    """
    reached: float
    """Least mean of a fifth of the run, of 20 steps at least."""
    falling: bool
    """Whether the second half of the run has a downward trend."""
    ahead: float = -np.inf
    """What the loss comes to in as many steps again, if it goes on as in the run's second half."""
    perfect: float = 0.0
    """Loss of a prediction that is right for every sample."""
    even: bool = True
    """Whether that is the loss of every sample."""

    @property
    def level(self) -> float:
        """What a model that has learned anything is below: the trivial loss, or else the first."""
        return self.first if self.trivial is None else self.trivial

    def at(self, share: float, loss: float | None = None) -> float:
        """Return what is above the perfect loss by a share of what the level, or a loss, is."""
        return self.perfect + share * ((self.level if loss is None else loss) - self.perfect)

    def multiple(self, factor: float, loss: float) -> float:
        """Return what is above the floor by a multiple of what a loss is."""
        return self.floor + factor * (loss - self.floor)

    @property
    def floor(self) -> float:
        """What losses of different steps are compared from: the perfect one if all have it."""
        return self.perfect if self.even else 0.0

    @property
    def got_worse(self) -> bool:
        """Whether the loss ends well above what it had reached."""
        rise = self.last - self.best
        worse = self.best >= self.floor and self.last > self.multiple(WORSE, self.best)
        return not self.solved and worse and rise > 0.02 * abs(self.level - self.perfect)

    @property
    def learned_nothing(self) -> bool:
        """Whether the loss ends no better than a constant prediction, nor ever was much better."""
        above = self.end > self.at(UNLEARNED) and self.reached > self.at(_REACHED)
        return self.steps >= LEAST_STEPS and above

    @property
    def unlearned(self) -> bool:
        """Whether the loss had come below that of a constant prediction, and ends above it again.

        Only where that loss is known, and the loss has not got worse by so much that it diverges.
        """
        known = self.trivial is not None and self.reached <= self.at(_REACHED)
        again = known and not self.got_worse and self.end > self.level
        return self.steps >= LEAST_STEPS and again

    @property
    def learned_little(self) -> bool:
        """Whether the loss ends well above half of that of a constant prediction."""
        return self.last > self.at(LITTLE)

    @property
    def failed(self) -> bool:
        """Whether the run was harmed or learned little: the gate where the cause is known."""
        return self.harmed or self.learned_little

    @property
    def solved(self) -> bool:
        """Whether the loss ends near zero, measured by the trivial one."""
        return self.last <= self.at(SOLVED)

    @property
    def harmed(self) -> bool:
        """Whether the run got worse, learned or kept nothing: the gate of what is an error."""
        return self.got_worse or self.learned_nothing or self.unlearned


def outcome(signals: Signals) -> Outcome | None:
    """Return what came of a run, None where it is too short or has no one loss."""
    return signals.once("outcome", lambda: _outcome(signals))


def is_harmed(signals: Signals) -> bool:
    """Whether the run got worse, learned nothing, or lost what it had learned."""
    found = outcome(signals)
    return found is not None and found.harmed


def has_failed(signals: Signals) -> bool:
    """Whether the run was harmed, or learned little."""
    found = outcome(signals)
    return found is not None and found.failed


def is_solved(signals: Signals) -> bool:
    """Whether the run has solved its task."""
    found = outcome(signals)
    return found is not None and found.solved


def task_losses(
    signals: Signals,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the steps and what the task itself costs at each: the loss without penalties.

    It is the mean of the samples' losses where they are recorded at every step of the loss, else
    the loss. A penalty adds to the loss; where the samples' mean is above it, the loss leaves some
    of them out, by weights or a mask, and is what counts.

    Raises
    ------
    NotJudgedError
        If the trace holds no loss.
    """
    loss = signals.loss
    try:
        steps, losses = signals.sample_losses
    except NotJudgedError:
        return loss.steps, loss.values[:, 0]
    if not np.array_equal(steps, loss.steps):
        return loss.steps, loss.values[:, 0]
    sizes = np.isin(signals.batch_size.steps, steps)
    counts = signals.batch_size.values[sizes, 0]
    real = np.arange(losses.shape[1]) < (
        counts[:, np.newaxis] if len(counts) == len(steps) else losses.shape[1]
    )
    with np.errstate(invalid="ignore", over="ignore"):
        sums = np.where(real, losses, 0.0).sum(axis=1)
        means = sums / np.maximum(real.sum(axis=1), 1)
        above = means > loss.values[:, 0] + _ROUNDING * np.abs(loss.values[:, 0])
    return steps, loss.values[:, 0] if above.mean() > _SOME else means


def _outcome(signals: Signals) -> Outcome | None:
    try:
        steps, values = task_losses(signals)
    except NotJudgedError:
        return None
    if len(values) < 2 * TAIL or signals.several_models:
        return None
    clean = np.where(np.isfinite(values), values, np.inf)
    medians = np.median(np.lib.stride_tricks.sliding_window_view(clean, TAIL), axis=-1)
    best = int(np.argmin(medians))
    half = values[len(values) // 2 :]
    tau, chance = mann_kendall(block_means(half, TAIL)) if np.isfinite(half).all() else (0.0, 1.0)
    constant, levels = constants(signals), batch_levels(signals, steps)
    trivial = None if constant is None else constant.best
    if levels is not None:
        trivial = float(levels.mean())
    end = _means(clean, levels, max(TAIL, len(clean) // 10))[-1]
    reached = _means(np.minimum(clean, _HUGE), levels, max(TAIL, len(clean) // 5)).min()
    return Outcome(
        steps=len(values),
        first=float(next(iter(values[np.isfinite(values)]), np.inf)),
        best=float(medians[best]),
        best_step=int(steps[best + TAIL - 1]),
        last=float(medians[-1]),
        trivial=trivial,
        end=float(end),
        reached=float(reached),
        falling=tau < 0 and chance < _CHANCE,
        ahead=_ahead(half),
        perfect=0.0 if constant is None else constant.perfect,
        even=constant is None or constant.even,
    )


def _ahead(half: npt.NDArray[np.float64]) -> float:
    """Return where a line through the means of both parts of the second half comes to."""
    with np.errstate(invalid="ignore", over="ignore"):
        before, after = (float(part.mean()) for part in np.array_split(half, 2))
        return after + _QUARTERS * (after - before)


def _means(
    values: npt.NDArray[np.float64], levels: npt.NDArray[np.float64] | None, wide: int
) -> npt.NDArray[np.float64]:
    """Return the mean of each `wide` losses in a row.

    Where the loss of a constant prediction on each batch is given, it is that of the whole run
    times what share of it the losses are.
    """
    means = np.lib.stride_tricks.sliding_window_view(values, wide).mean(axis=-1)
    if levels is None:
        return np.asarray(means)
    usual = np.lib.stride_tricks.sliding_window_view(levels, wide).mean(axis=-1)
    if not (usual > 0).all():
        return np.asarray(means)
    return np.asarray(means * (levels.mean() / usual))
