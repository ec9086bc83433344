"""Batch normalisation whose moving statistics are not those of the batches."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.finding import Finding, Severity
from steptrace_analyzer.anomalies.outcome import outcome
from steptrace_analyzer.anomalies.signals import require
from steptrace_analyzer.anomalies.words import number

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.anomalies.signals import Signals
    from steptrace_schema.format.attributes import Layer

    Floats = npt.NDArray[np.float64]

_STEPS: Final = 50  # last ones, whose batches are looked at
_ROWS: Final = 100  # recorded samples that a mean is worth something from
_EPSILON: Final = 1e-3  # of Keras
_SETTLED: Final = 1000  # steps after which 0.99 to their power is nothing
_CLOSER: Final = 0.9  # of the distance a quarter of the run before


@dataclasses.dataclass(frozen=True)
class Parted:
    """How far a layer's moving statistics are from those of its batches."""

    share: float
    """Channels whose outputs are shifted or scaled in inference, over all."""
    shift: float
    """Median over the channels of how far the output's mean is from zero, in inference."""
    scale: float
    """Median over the channels of the output's standard deviation, in inference."""
    closing: bool
    """Whether they had been farther apart a quarter of the run before."""
    still: bool
    """Whether the moving statistics never changed."""


def normalisation(signals: Signals, *, shift: float = 1.0, scale: float = 2.0) -> Iterator[Finding]:
    """Find layers of batch normalisation whose moving statistics part from the batches'.

    In training such a layer subtracts the batch's mean and divides by its standard deviation; in
    inference it uses moving averages of them. With these, (mean - moving mean) / sqrt(moving
    variance + 0.001) is the shift of a channel's output, which is zero in training, and
    sqrt((variance + 0.001) / (moving variance + 0.001)) its scale, which is one. Means and
    variances are those of the recorded samples of the last 50 steps. A layer is reported where the
    shift of half of its channels is above `shift`, or the scale beyond `scale` or below its
    inverse. Where the two come closer, or in less than 1,000 steps, after which a momentum of 0.99
    has forgotten where it began, the run is too short for the layer: that is worth knowing only.
    Else it is a warning, and an error where the validation loss is above that of the best constant
    prediction, while the training loss is below half of it. Layers that are frozen use the moving
    averages in training too, and are left out.

    Thresholds
        shift: standard deviations of the output. scale: standard deviation of the output.
    Unit
        standard deviations of the layer's normalised output
    Needs
        weights and activations with their values, the model's layers
    Source
        Ioffe and Szegedy, "Batch Normalization", 2015, section 3.1; bounds: own
    """
    layers = learning_layers(signals)
    require(layers, "the model has no layer of batch normalisation that learns")
    judged = False
    for layer in layers:
        found = _parted(signals, layer, shift, scale)
        judged |= found is not None
        if found is None or found.share < 0.5:
            continue
        steps = signals.steps("weights")
        state = (
            "and have never changed"
            if found.still
            else "and have not caught up with them yet"
            if found.closing
            else "and do not come closer"
        )
        yield Finding(
            rule="normalisation",
            severity=_severity(signals, found),
            first_step=int(steps[max(0, len(steps) - 1 - _STEPS)]),
            last_step=int(steps[-1]),
            explanation=(
                f"the moving statistics of {layer.path} are not those of its batches, {state}: in "
                f"inference the normalised channels have a mean of {number(found.shift)} instead "
                f"of 0 and a standard deviation of {number(found.scale)} instead of 1 in the "
                f"median, {found.share:.0%} of them beyond bounds."
            ),
            tensor=f"weights/{layer.path}/moving_mean",
            observed=max(found.shift, found.scale, 1 / max(found.scale, 1e-30)),
            threshold=min(shift, scale),
            cause=(
                "the moving averages are not updated in training"
                if found.still
                else "the averages have a longer memory than the run, or other data went into them"
            ),
            cause_kind="set-up",
            consequence="the model predicts differently in inference than in training",
            remedy=(
                "call the model with training=True in training, train longer, lower the layer's "
                "momentum, or use larger batches"
            ),
            evidence={"share": found.share, "shift": found.shift, "scale": found.scale},
        )
    require(judged, "the inputs of the layers of batch normalisation are not recorded often enough")


def learning_layers(signals: Signals) -> list[Layer]:
    """Return the layers of batch normalisation that are not frozen."""
    return [
        layer
        for layer in signals.attributes.layers
        if layer.class_name == "BatchNormalization" and layer.trainable
    ]


def is_short(signals: Signals) -> bool:
    """Whether moving averages of Keras' usual momentum still hold a part of where they began."""
    return int(signals.loss.steps[-1]) < _SETTLED


def _severity(signals: Signals, found: Parted) -> Severity:
    if not found.still and (found.closing or is_short(signals)):
        return "info"
    came = outcome(signals)
    if came is None or came.trivial is None or not signals.has("validation", "loss"):
        return "warning"
    values = np.asarray(signals.tensor("validation", "loss"), dtype=np.float64)
    bad = bool(len(values)) and values[-1] > came.trivial and came.last < came.at(0.5)
    return "error" if bad else "warning"


def _parted(signals: Signals, layer: Layer, shift: float, scale: float) -> Parted | None:
    given = _input_of(signals, layer)
    mean_path, variance_path = (f"{layer.path}/moving_{name}" for name in ("mean", "variance"))
    if (
        given is None
        or given.ndim < 3
        or not all(signals.has("weights", p) for p in (mean_path, variance_path))
    ):
        return None
    kind = "inputs" if given.name == "x" or not layer.inputs else "activations"
    steps = signals.steps(kind)[-_STEPS:]  # type: ignore[arg-type]
    values = np.asarray(given.sel(step=steps), dtype=np.float64)
    moving = signals.tensor("weights", mean_path), signals.tensor("weights", variance_path)
    channels = values.shape[-1]
    rows = values.reshape(values.shape[0] * values.shape[1], -1, channels)
    rows = rows[np.isfinite(rows).all(axis=(1, 2))]
    if len(rows) < _ROWS or moving[0].shape[1:] != (channels,):
        return None
    means, variances = rows.mean(axis=(0, 1)), rows.var(axis=(0, 1))
    count = len(signals.steps("weights"))
    last, before, first = (
        tuple(np.asarray(each[place], dtype=np.float64) for each in moving)
        for place in (-1, -1 - count // 4, 0)
    )
    shifts, scales = _in_inference(means, variances, *last)
    beyond = (shifts > shift) | (scales > scale) | (scales < 1 / scale)
    late, early = (
        float(np.median(np.hypot(*_apart(*_in_inference(means, variances, *each)))))
        for each in (last, before)
    )
    return Parted(
        share=float(beyond.mean()),
        shift=float(np.median(shifts)),
        scale=float(np.median(scales)),
        closing=late < _CLOSER * early,
        still=all(np.array_equal(a, b) for a, b in zip(first, last, strict=True)),
    )


def _in_inference(
    means: Floats, variances: Floats, moving_mean: Floats, moving_variance: Floats
) -> tuple[Floats, Floats]:
    """Return size of shift, and scale, of each channel's normalised output in inference."""
    spread = np.sqrt(np.maximum(moving_variance, 0) + _EPSILON)
    return np.abs(means - moving_mean) / spread, np.sqrt(variances + _EPSILON) / spread


def _apart(shifts: Floats, scales: Floats) -> tuple[Floats, Floats]:
    return shifts, np.abs(np.log(np.maximum(scales, 1e-30)))


def _input_of(signals: Signals, layer: Layer) -> xr.DataArray | None:
    """Return what goes into a layer that takes one thing, called once a step."""
    if layer.inputs and len(layer.inputs) == 1 and not layer.data:
        path = f"{layer.inputs[0]}/output"
        return signals.tensor("activations", path) if signals.has("activations", path) else None
    if layer.data and len(layer.data) == 1 and not layer.inputs:
        name = layer.data[0]
        return signals.tensor("inputs", name) if signals.has("inputs", name) else None
    return None
