"""Replicas that no longer compute the same."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_analyzer.anomalies.finding import Finding
from steptrace_analyzer.anomalies.outcome import is_harmed
from steptrace_analyzer.anomalies.signals import require
from steptrace_analyzer.anomalies.words import listed, number, times
from steptrace_analyzer.trace.batch import is_input
from steptrace_schema.names import SAMPLE_REPLICA, STEP

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_analyzer.anomalies.signals import Signals
    from steptrace_schema.names import Kind

    Floats = npt.NDArray[np.float64]

_LEAST: Final = 30  # steps that a usual ratio is of
_ERRORS: Final = 6.0  # standard errors of the median
_BLOCK: Final = 10
_TINY: Final = 1e-30


@dataclasses.dataclass(frozen=True)
class _Apart:
    replica: int
    path: str
    ratio: float
    since: int


def replicas(signals: Signals, *, ratio: float = 1.5) -> Iterator[Finding]:
    """Find replicas whose layers give outputs of another size than the others' do.

    All replicas have the same weights, and their samples are drawn from the same data. So the root
    mean square of a layer's output over the recorded samples of a replica, divided by the median of
    that of the other replicas, scatters about one. Reported is the first layer, in the order of the
    model, at which the median of that ratio over the last 200 steps is above `ratio` or below its
    inverse, by six standard errors of the median's logarithm or more. Where the inputs differ as
    much, it is the data that is divided unevenly. It is an error where the run is harmed, else a
    warning. Runs of several processes have a trace for each: `steptrace compare` has those.

    Thresholds
        ratio: root mean square over that of the other replicas.
    Unit
        ratio of root mean squares
    Needs
        inputs/sample_replica, activations with their values
    Source
        own
    """
    path = SAMPLE_REPLICA
    require(signals.has("inputs", path), "the trace is of one replica, or does not tell replicas")
    owner = np.asarray(signals.tensor("inputs", path), dtype=np.int64)
    require(owner.ndim == 2, "the replicas of samples are not given as the format says")
    numbers = sorted(set(np.unique(owner).tolist()) - {-1})
    require(len(numbers) > 1, "the samples of one replica only are recorded")
    steps = signals.steps("inputs")
    first: list[_Apart] = []
    for layer in signals.paths("activations"):
        first = _apart(signals, "activations", layer, steps, owner, numbers, ratio)
        if first:
            break
    if not first:
        return
    uneven = any(
        _apart(signals, "inputs", each, steps, owner, numbers, np.sqrt(ratio))
        for each in signals.paths("inputs")
        if is_input(each)
    )
    top = max(first, key=lambda each: abs(np.log(each.ratio)))
    two = len(numbers) == 2
    who = (
        f"replicas {numbers[0]} and {numbers[1]} are out of step"
        if two
        else f"replica {top.replica} is out of step"
    )
    yield Finding(
        rule="replicas",
        severity="error" if is_harmed(signals) else "warning",
        first_step=top.since,
        last_step=int(steps[-1]),
        explanation=(
            f"{who}: the output of {top.path.removesuffix('/output')} on replica {top.replica} is "
            f"{times(top.ratio)} as large as on {'the other' if two else 'the others'}"
            f"{', and so are its inputs' if uneven else ''}, since about step {top.since}."
        ),
        tensor=f"activations/{top.path}",
        observed=top.ratio,
        usual=1.0,
        threshold=ratio,
        cause=(
            "the data is divided unevenly among the replicas"
            if uneven
            else "a variable differs between replicas: it was written to, or not synchronised, on "
            f"one of them ({listed(numbers)})"
        ),
        cause_kind="data" if uneven else "outside",
        consequence="gradients are sums of what different models give",
        remedy=(
            "shuffle before the data is divided"
            if uneven
            else "assign variables within the strategy's scope, and check the device's memory"
        ),
        evidence={"ratio": number(top.ratio), "replicas": numbers},
    )


def _apart(
    signals: Signals,
    kind: Kind,
    path: str,
    steps: npt.NDArray[np.int64],
    owner: npt.NDArray[np.int64],
    numbers: list[int],
    ratio: float,
) -> list[_Apart]:
    """Return the replicas whose values of a tensor are of another size than the others'."""
    array = signals.tensor(kind, path)
    shared = np.intersect1d(signals.steps(kind), steps)[-200:]
    if array.ndim < 2 or array.dtype.kind != "f" or len(shared) < _LEAST:
        return []
    values: Any = array.sel({STEP: shared}).astype(np.float64)
    dims = list(values.dims[2:])
    squares = np.asarray((values * values).mean(dims) if dims else values * values)
    mine = owner[np.isin(steps, shared)]
    width = min(squares.shape[1], mine.shape[1])
    squares, mine = squares[:, :width], mine[:, :width]
    sizes = np.stack([_size(squares, mine == number) for number in numbers], axis=1)
    found = []
    for column, replica in enumerate(numbers):
        others = np.delete(sizes, column, axis=1)
        with np.errstate(all="ignore"):
            logs = np.log(sizes[:, column] / np.nanmedian(others, axis=1))
        known = np.isfinite(logs)
        if known.sum() < _LEAST:
            continue
        middle = float(np.median(logs[known]))
        spread = 1.4826 * float(np.median(np.abs(logs[known] - middle)))
        error = 1.2533 * spread / float(np.sqrt(known.sum()))
        if abs(middle) > np.log(ratio) and abs(middle) > _ERRORS * error:
            since = _since(logs[known], shared[known], middle)
            found.append(_Apart(replica, path, float(np.exp(middle)), since))
    return found


def _size(squares: Floats, rows: npt.NDArray[np.bool_]) -> Floats:
    """Return the root mean square over some rows of each step, NaN where there are none."""
    count = rows.sum(axis=1)
    with np.errstate(all="ignore"):
        sums = np.where(rows, squares, 0.0).sum(axis=1)
        return np.asarray(np.sqrt(sums / np.where(count, count, np.nan)))


def _since(logs: Floats, steps: npt.NDArray[np.int64], middle: float) -> int:
    """Return the step from which on medians of ten are more than half as far as the usual one."""
    windows = np.median(np.lib.stride_tricks.sliding_window_view(logs, _BLOCK), axis=-1)
    near = np.flatnonzero(windows * np.sign(middle) < abs(middle) / 2)
    start = int(near[-1]) + _BLOCK // 2 if len(near) else 0
    return int(steps[min(start, len(steps) - 1)])
