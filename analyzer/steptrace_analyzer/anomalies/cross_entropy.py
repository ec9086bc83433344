"""Cross entropies computed again from recorded outputs and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.signals import layer_path

if TYPE_CHECKING:
    import numpy.typing as npt

    from steptrace_analyzer.anomalies.signals import Signals
    from steptrace_schema.format.attributes import Layer

    Floats = npt.NDArray[np.float64]

EPSILON: Final = 1e-7
"""What Keras keeps probabilities away from 0 and 1 by."""


def last_layer(signals: Signals) -> Layer | None:
    """Return the last layer with outputs and, where it is only an activation, that layer."""
    last = layer_path(signals.paths("activations")[-1])
    return signals.layers.get(last)


def categorical(outputs: Floats, labels: Floats, least: float = EPSILON) -> Floats | None:
    """Return the cross entropy of each sample, outputs taken for probabilities."""
    if outputs.ndim != 2:
        return None
    with np.errstate(all="ignore"):
        share = np.clip(outputs / outputs.sum(axis=-1, keepdims=True), least, 1 - least)
        if labels.ndim == 2 and labels.shape == outputs.shape:
            return np.asarray(-(labels * np.log(share)).sum(axis=-1))
        ids = labels.reshape(len(labels), -1)
        if ids.shape[1] != 1 or ids.max() >= outputs.shape[1] or ids.min() < 0:
            return None
        return np.asarray(-np.log(share[np.arange(len(ids)), ids[:, 0].astype(int)]))


def binary_entropy(outputs: Floats, labels: Floats) -> Floats | None:
    """Return the binary cross entropy of each sample, outputs taken for probabilities."""
    flat, wanted = outputs.reshape(len(outputs), -1), labels.reshape(len(labels), -1)
    if flat.shape != wanted.shape:
        return None
    share = np.clip(flat, EPSILON, 1 - EPSILON)
    each = -(wanted * np.log(share) + (1 - wanted) * np.log(1 - share))
    return np.asarray(each.mean(axis=1))
