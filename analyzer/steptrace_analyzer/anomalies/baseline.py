"""The loss of the best constant prediction: what a model that has learned anything is below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from steptrace_analyzer.anomalies.signals import Signals

_LEAST_ROWS: Final = 50
_SQUARED: Final = ("mse", "mean_squared_error", "meansquarederror")
_ABSOLUTE: Final = ("mae", "mean_absolute_error", "meanabsoluteerror")


def trivial_loss(signals: Signals) -> float | None:
    """Return the loss of the best constant prediction, None where it is not known.

    It is computed from all recorded targets: the entropy of the classes for a cross entropy, the
    variance for a mean squared error, the mean absolute deviation from the median for a mean
    absolute error.
    """
    return signals.once("trivial loss", lambda: _trivial(signals))


def targets(signals: Signals) -> npt.NDArray[np.float64] | None:
    """Return all recorded targets, (row, ...), without padding; None unless there is one array."""
    if not signals.has("inputs", "y"):
        return None
    values = np.asarray(signals.tensor("inputs", "y"), dtype=np.float64)
    if values.ndim < 2:
        return None
    sizes = signals.batch_size
    samples = np.arange(values.shape[1])
    rows = [sizes.row(int(step)) for step in signals.steps("inputs")]
    real = [samples < (sizes.values[row, 0] if row is not None else len(samples)) for row in rows]
    known = values[np.array(real).reshape(values.shape[:2])]
    return known[np.isfinite(known.reshape(len(known), -1)).all(axis=1)] if len(known) else None


def _trivial(signals: Signals) -> float | None:
    name = (signals.attributes.loss or "").lower()
    known = targets(signals)
    if known is None or len(known) < _LEAST_ROWS:
        return None
    if "sparse_categorical" in name or "sparsecategorical" in name:
        _, counts = np.unique(known, return_counts=True)
        return _entropy(counts / counts.sum())
    flat = known.reshape(len(known), -1)
    if "binary" in name and "entropy" in name and (flat.min() >= 0 and flat.max() <= 1):
        share = flat.mean(axis=0)
        return float(np.mean([_entropy(np.array([p, 1 - p])) for p in share]))
    if "categorical" in name and flat.ndim == 2 and np.allclose(flat.sum(axis=1), 1, atol=1e-3):
        return _entropy(flat.mean(axis=0))
    if name in _SQUARED:
        return float(flat.var(axis=0).mean())
    if name in _ABSOLUTE:
        return float(np.abs(flat - np.median(flat, axis=0)).mean())
    return None


def _entropy(share: npt.NDArray[np.float64]) -> float:
    positive = share[share > 0]
    return float(-(positive * np.log(positive)).sum())
