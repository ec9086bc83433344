"""The loss of the best constant prediction: what a model that has learned anything is below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_schema.names import STEP

if TYPE_CHECKING:
    import numpy.typing as npt

    from steptrace_analyzer.anomalies.signals import Signals

_MOST_VALUES: Final = 8e6
_LEAST_STEPS: Final = 20
_LEAST_ROWS: Final = 50
_PADDING: Final = 0.3  # of all labels
_SQUARED: Final = ("mse", "mean_squared_error", "meansquarederror")
_ABSOLUTE: Final = ("mae", "mean_absolute_error", "meanabsoluteerror")


def trivial_loss(signals: Signals) -> float | None:
    """Return the loss of the best constant prediction, None where it is not known.

    It is computed from all recorded targets: the entropy of the classes for a cross entropy, the
    variance for a mean squared error, the mean absolute deviation from the median for a mean
    absolute error.
    """
    return signals.once("trivial loss", lambda: _trivial(signals))


def zero_loss(signals: Signals) -> float | None:
    """Return the loss of predicting zero, as a regression about does before its first update.

    None where the loss is no squared or absolute error, or too few targets are known.
    """
    name = (signals.attributes.loss or "").lower()
    known = targets(signals) if name in (*_SQUARED, *_ABSOLUTE) else None
    if known is None or len(known) < _LEAST_ROWS:
        return None
    return float((known**2).mean() if name in _SQUARED else np.abs(known).mean())


def is_squared(signals: Signals) -> bool:
    """Whether the loss is the mean squared error."""
    return (signals.attributes.loss or "").lower() in _SQUARED


def is_absolute(signals: Signals) -> bool:
    """Whether the loss is the mean absolute error."""
    return (signals.attributes.loss or "").lower() in _ABSOLUTE


def targets(signals: Signals) -> npt.NDArray[np.float64] | None:
    """Return all recorded targets, (row, ...), without padding; None unless there is one array."""
    if not signals.has("inputs", "y"):
        return None
    array = signals.tensor("inputs", "y")
    if array.ndim < 2 or not array.size:
        return None
    steps = signals.steps("inputs")
    most = max(_LEAST_STEPS, int(_MOST_VALUES // max(1, array[0].size)))
    if len(steps) > most:  # masks and pictures: a part of the steps says as much
        steps = steps[np.linspace(0, len(steps) - 1, most).astype(int)]
        array = array.sel({STEP: steps})
    values = np.asarray(array, dtype=np.float64)
    sizes = signals.batch_size
    samples = np.arange(values.shape[1])
    rows = [sizes.row(int(step)) for step in steps]
    real = [samples < (sizes.values[row, 0] if row is not None else len(samples)) for row in rows]
    known = values[np.array(real).reshape(values.shape[:2])]
    return known[np.isfinite(known.reshape(len(known), -1)).all(axis=1)] if len(known) else None


def _trivial(signals: Signals) -> float | None:
    name = (signals.attributes.loss or "").lower()
    known = targets(signals)
    if known is None or len(known) < _LEAST_ROWS:
        return None
    flat = known.reshape(len(known), -1)
    if "entropy" in name and "focal" not in name:
        return _of_entropy(name, flat)
    if name in _SQUARED:
        return float(flat.var(axis=0).mean())
    if name in _ABSOLUTE:
        return float(np.abs(flat - np.median(flat, axis=0)).mean())
    return None


def _of_entropy(name: str, flat: npt.NDArray[np.float64]) -> float | None:
    """Return the cross entropy of the classes' shares, (row, label or class)."""
    if "sparse" in name:
        _, counts = np.unique(flat[flat >= 0], return_counts=True)
        if flat.shape[1] > 1 and counts.max(initial=0) > _PADDING * counts.sum():
            return _with_less_padding(counts.astype(np.float64))
        return _entropy(counts / max(1, counts.sum()))
    if "binary" in name and flat.min() >= 0 and flat.max() <= 1:
        return float(np.mean([_entropy(np.array([p, 1 - p])) for p in flat.mean(axis=0)]))
    if "categorical" in name and np.allclose(flat.sum(axis=1), 1, atol=1e-3):
        return _entropy(flat.mean(axis=0))
    return None


def _with_less_padding(counts: npt.NDArray[np.float64]) -> float:
    """Return the largest entropy of labels of which some of the most frequent ones are left out.

    Of sequences that label is often padding, which a mask may leave out, and may be a class as
    well. How much of it counts is not known: what is above the largest is above the right one.
    """
    levels = []
    for part in np.linspace(0.0, 1.0, 41):
        rest = counts.copy()
        rest[counts.argmax()] *= part
        levels.append(_entropy(rest / (rest.sum() or 1.0)))
    return max(levels)


def _entropy(share: npt.NDArray[np.float64]) -> float:
    positive = share[share > 0]
    return float(-(positive * np.log(positive)).sum())
