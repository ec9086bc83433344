"""Sudden jumps: updates or gradients that are far larger than their own history."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from steptrace_analyzer.anomalies.evidence import Surroundings
from steptrace_analyzer.anomalies.scores import Scores, high_scores, log_sizes
from steptrace_analyzer.trace.select import get_tensor, recorded_steps, tensor_paths
from steptrace_schema.names import STEP

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.anomalies.evidence import Evidence
    from steptrace_analyzer.anomalies.measurements import Series
    from steptrace_analyzer.anomalies.signals import Signals

CALM_STEPS: Final = 3
"""After-effects of a jump end once its tensors scored below half the threshold for as long."""

_RECENT: Final = 3  # steps that a second jump inside the after-effects must rise above
_MOST_UNITS: Final = 3


@dataclasses.dataclass(frozen=True)
class JumpedTensor:
    """One tensor whose update, or gradient, was too large."""

    path: str
    norm: float
    """L2 norm of the update or gradient."""
    usual: float
    """Median of that norm before."""
    z: float

    @property
    def ratio(self) -> float:
        """The norm over its usual size."""
        return self.norm / self.usual


@dataclasses.dataclass(frozen=True)
class MovedUnit:
    """One output unit (or filter) of the tensor that jumped most."""

    index: int
    norm: float
    """L2 norm of its part of the update or gradient."""
    share: float
    """Its part of the sum of squares, 0 to 1."""


@dataclasses.dataclass(frozen=True)
class Jump:
    """Parameters, or gradients alone, went much further in one step than their history predicts."""

    kind: Literal["jump", "gradient"]
    """Whether parameters jumped, or a gradient did that the optimizer kept from moving them far."""
    step: int
    tensors: tuple[JumpedTensor, ...]
    """Most unusual first."""
    units: tuple[MovedUnit, ...]
    """Of the first tensor, those that moved most; empty where it has no unit axis."""
    unit_noun: Literal["filter", "unit"]
    duration: int
    """Recorded steps until all was back to normal; 1 for a single step."""
    evidence: Evidence

    @property
    def tensor(self) -> str:
        """Path of the tensor that jumped most."""
        return self.tensors[0].path


@dataclasses.dataclass(frozen=True)
class Episode:
    """Rows of one jump and its after-effects."""

    onset: int
    last: int
    members: tuple[int, ...]
    """Columns of the tensors that jumped at the onset."""


@dataclasses.dataclass(frozen=True)
class _Column:
    kind: Literal["updates", "gradients"]
    path: str


@dataclasses.dataclass(frozen=True)
class _Measured:
    """Norms and their scores, (step, column)."""

    steps: npt.NDArray[np.int64]
    columns: tuple[_Column, ...]
    values: npt.NDArray[np.float64]
    scores: Scores


def find_jumps(
    signals: Signals, threshold: float, updates: Series | None, gradients: Series | None
) -> list[Jump]:
    """Find the steps at which parameters, or gradients, went much further than before.

    The score is the robust z of the logarithm of each L2 norm. A smaller batch has a noisier
    gradient, whose norm grows with one over the square root of its size; that part is taken off.
    An adaptive optimizer hides most of a gradient's jump from the parameters, so gradients are
    looked at too, and reported where no parameter jumped with them.

    Parameters
    ----------
    signals
        The trace.
    threshold
        Score from which on an update or gradient is a jump.
    updates, gradients
        Their norms.
    """
    around = Surroundings.of(signals, updates, gradients)
    found = [series for series in (around.updates, around.gradients) if series is not None]
    if not found:
        return []
    steps = np.unique(np.concatenate([series.steps for series in found]))
    values = np.concatenate([_at_steps(series, steps) for series in found], axis=1)
    columns = [
        *(_Column("updates", p) for p in (around.updates.paths if around.updates else ())),
        *(_Column("gradients", p) for p in (around.gradients.paths if around.gradients else ())),
    ]
    sizes = log_sizes(values) - _small_batch(steps, around.batch_size)[:, np.newaxis]
    measured = _Measured(steps, tuple(columns), values, high_scores(sizes, threshold / 2))

    def from_outside(row: int) -> bool:
        return around.changed_from_outside(int(steps[row]))

    return [
        _jump(signals.trace, measured, episode, around)
        for episode in find_episodes(sizes, measured.scores, threshold, from_outside)
    ]


def find_episodes(
    sizes: npt.NDArray[np.float64],
    scores: Scores,
    threshold: float,
    from_outside: Callable[[int], bool],
) -> list[Episode]:
    """Group scores into jumps, each with its after-effects.

    Parameters
    ----------
    sizes
        (step, tensor) logarithms.
    scores
        Their scores.
    threshold
        Score from which on an update is a jump.
    from_outside
        Whether something that no weight influences jumped at a row: inside the after-effects of
        one jump, that makes another rise a separate jump.
    """
    z = np.nan_to_num(scores.z, nan=-np.inf)
    fires = z > threshold
    episodes: list[Episode] = []
    members: set[int] = set()
    onset = last = 0
    for row in np.flatnonzero((z > threshold / 2).any(axis=1)).tolist():
        if members and row - last > CALM_STEPS:
            episodes.append(Episode(onset, last, _firing(fires[onset])))
            members = set()
        fired = set(_firing(fires[row]))
        if not members:
            if fired:
                onset, last, members = row, row, fired
            continue
        if fired and _is_new(row, onset, sizes, scores, threshold, from_outside):
            episodes.append(Episode(onset, last, _firing(fires[onset])))
            onset, last, members = row, row, fired
            continue
        if fired or any(z[row, column] > threshold / 2 for column in members):
            last = row
        members |= fired
    if members:
        episodes.append(Episode(onset, last, _firing(fires[onset])))
    return episodes


def _is_new(
    row: int,
    onset: int,
    sizes: npt.NDArray[np.float64],
    scores: Scores,
    threshold: float,
    from_outside: Callable[[int], bool],
) -> bool:
    """Whether a tensor that fires in the after-effects of a jump jumps again."""
    z = np.nan_to_num(scores.z[row], nan=-np.inf)
    recent = np.fmax.reduce(sizes[max(0, row - _RECENT) : row], axis=0)
    with np.errstate(invalid="ignore"):
        rises = (z > threshold) & (sizes[row] - recent > threshold * scores.scale[row])
    if not rises.any():
        return False
    return bool(z[rises].max() >= np.nanmax(scores.z[onset])) or from_outside(row)


def _firing(row: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(row).tolist())


def _at_steps(series: Series, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the rows of a series at `steps`, NaN where it has none."""
    values = np.full((len(steps), len(series.paths)), np.nan)
    known = np.isin(series.steps, steps)
    values[np.searchsorted(steps, series.steps[known])] = series.values[known]
    return values


def _small_batch(
    steps: npt.NDArray[np.int64], batch_size: Series | None
) -> npt.NDArray[np.float64]:
    """Return by how much a smaller batch than usual lets each step's log norm grow."""
    expected = np.zeros(len(steps))
    if batch_size is None or not len(batch_size.steps):
        return expected
    usual = float(np.median(batch_size.values))
    sizes = _at_steps(batch_size, steps)[:, 0]
    smaller = (sizes > 0) & (sizes < usual)
    expected[smaller] = 0.5 * np.log(usual / sizes[smaller])
    return expected


def _jump(
    trace: xr.DataTree,
    measured: _Measured,
    episode: Episode,
    around: Surroundings,
) -> Jump:
    row, scores = episode.onset, measured.scores
    step = int(measured.steps[row])
    moved = [c for c in episode.members if measured.columns[c].kind == "updates"]
    columns = sorted(moved or episode.members, key=lambda column: -scores.z[row, column])
    tensors = tuple(
        JumpedTensor(
            path=measured.columns[column].path,
            norm=float(measured.values[row, column]),
            usual=float(np.exp(scores.median[row, column])),
            z=float(scores.z[row, column]),
        )
        for column in columns
    )
    units, unit_noun = _moved_units(trace, measured.columns[columns[0]], step)
    return Jump(
        kind="jump" if moved else "gradient",
        step=step,
        tensors=tensors,
        units=units,
        unit_noun=unit_noun,
        duration=episode.last - episode.onset + 1,
        evidence=around.evidence(step, tensors[0].path),
    )


def _moved_units(
    trace: xr.DataTree, column: _Column, step: int
) -> tuple[tuple[MovedUnit, ...], Literal["filter", "unit"]]:
    """Return the units that moved most, and what to call them."""
    if column.path not in tensor_paths(trace, column.kind):
        return (), "unit"
    tensor = get_tensor(trace, column.kind, column.path)
    noun: Literal["filter", "unit"] = "filter" if "kw" in tensor.dims else "unit"
    # Steps that a policy thins out keep their statistics, in which the jump was seen.
    if tensor.ndim < 2 or step not in recorded_steps(tensor):
        return (), noun
    values = np.asarray(tensor.sel({STEP: step}), dtype=np.float64)
    squares = np.square(values).reshape(-1, values.shape[-1]).sum(axis=0)
    total = float(squares.sum())
    if not np.isfinite(total) or not total:
        return (), noun
    units = tuple(
        MovedUnit(int(index), float(np.sqrt(squares[index])), float(squares[index] / total))
        for index in np.argsort(-squares, kind="stable")[:_MOST_UNITS]
    )
    return units, noun
