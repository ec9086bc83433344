"""The loss of the best constant prediction: what a model that has learned anything is below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.constant_losses import ConstantLosses, constant_losses
from steptrace_schema.format.attributes import TargetLoss
from steptrace_schema.names import SAMPLE_LOSS, STEP, Y

if TYPE_CHECKING:
    import numpy.typing as npt

    from steptrace_analyzer.anomalies.signals import Signals

_MOST_VALUES: Final = 8e6
_LEAST_STEPS: Final = 20
_LEAST_ROWS: Final = 50
_SQUARED: Final = ("mse", "mean_squared_error", "meansquarederror")
_ABSOLUTE: Final = ("mae", "mean_absolute_error", "meanabsoluteerror")
_ENTROPIES: Final = ("sparse", "binary", "categorical")
_SUMS: Final = ("sum", "none")
"""Reductions with which the loss of a step is no mean over the samples."""


def trivial_loss(signals: Signals) -> float | None:
    """Return the loss of the best constant prediction, None where it is not known.

    It is computed from all recorded targets: the entropy of the classes for a cross entropy, the
    variance for a mean squared error, the mean absolute deviation from the median for a mean
    absolute error, and so on (:mod:`constant_losses`). Of a model with several outputs it is the
    weighted sum over them.
    """
    found = constants(signals)
    return None if found is None else found.best


def constants(signals: Signals) -> ConstantLosses | None:
    """Return the losses of constant predictions, None where they are not known.

    Outputs that are no regression count in the loss of predicting zero with their best constant.
    """
    return signals.once("constant losses", lambda: _weighted_sum(signals))


def only_loss(signals: Signals) -> TargetLoss | None:
    """Return the loss of a model that has one, where its function is known."""
    losses = _losses(signals)
    return losses[0] if len(losses) == 1 and losses[0].function else None


def targets(signals: Signals, path: str = Y) -> npt.NDArray[np.float64] | None:
    """Return the recorded targets at a path, (row, ...), without padding; None without any."""
    if not signals.has("inputs", path):
        return None
    array = signals.tensor("inputs", path)
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


def _weighted_sum(signals: Signals) -> ConstantLosses | None:
    """Return the losses of constant predictions, of all outputs together."""
    found = []
    for loss in _losses(signals):
        own = _constants_of(signals, loss)
        if own is None or loss.weight < 0:
            return None
        found.append((loss.weight, own))
    if not found:
        return None
    zeros = [own.zero for _, own in found]
    return ConstantLosses(
        best=sum(weight * own.best for weight, own in found),
        perfect=sum(weight * own.perfect for weight, own in found),
        zero=None
        if all(zero is None for zero in zeros)
        else sum(w * (own.best if own.zero is None else own.zero) for w, own in found),
        even=all(own.even for _, own in found),
    )


def _constants_of(signals: Signals, loss: TargetLoss) -> ConstantLosses | None:
    per_sample = signals.has("inputs", SAMPLE_LOSS)
    if loss.function is None or (loss.config.get("reduction") in _SUMS and not per_sample):
        return None
    known = targets(signals, loss.target)
    if known is None or len(known) < _LEAST_ROWS:
        return None
    return constant_losses(loss.function, known, loss.config)


def _losses(signals: Signals) -> tuple[TargetLoss, ...]:
    return signals.attributes.losses or _by_name(signals.attributes.loss)


def _by_name(name: str | None) -> tuple[TargetLoss, ...]:
    """Return the loss of the one target by its name, where the trace says no more of it."""
    lower = (name or "").lower()
    function = None
    if lower in _SQUARED:
        function = "mean_squared_error"
    elif lower in _ABSOLUTE:
        function = "mean_absolute_error"
    elif "entropy" in lower and "focal" not in lower and not lower.startswith(("[", "{")):
        kind = next((kind for kind in _ENTROPIES if kind in lower), None)
        names = {"sparse": "sparse_categorical_crossentropy"}
        function = kind and names.get(kind, f"{kind}_crossentropy")
    if function is None:
        return ()
    return (TargetLoss(target=Y, name=lower, function=function),)
