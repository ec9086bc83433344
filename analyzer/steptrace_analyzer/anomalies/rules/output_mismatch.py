"""Outputs that do not fit the loss or the targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.anomalies.cross_entropy import (
    EPSILON,
    binary_entropy,
    categorical,
    last_layer,
)
from steptrace_analyzer.anomalies.finding import Finding, Severity
from steptrace_analyzer.anomalies.outcome import outcome
from steptrace_analyzer.anomalies.signals import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_analyzer.anomalies.signals import Signals
    from steptrace_schema.format.attributes import Layer

    Floats = npt.NDArray[np.float64]

_BOUNDS: Final = {
    "sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "relu": (0.0, np.inf),
    "softplus": (0.0, np.inf),
}
"""What the outputs of an activation function lie between."""
_NEARLY: Final = 0.01
_LEAST: Final = 8  # samples that say how a loss was computed
_ROWS: Final = 200  # samples whose losses are computed again


def output_mismatch(signals: Signals, *, share: float = 0.02) -> Iterator[Finding]:
    """Find last layers that cannot give what the loss asks for.

    A softmax over one unit gives 1 whatever goes in. A cross entropy is computed again for the
    recorded samples, once from probabilities and once from logits: where it was computed from
    outputs that are no probabilities as if they were, or from probabilities as if they were logits,
    the loss says so itself; and so does a softmax of what sums to one already. A last ReLU that
    gives zero for nearly every sample gives neither. Of other losses, `share` of the targets lie
    outside what the last activation function can give; targets that are not one for each output,
    as the ids of classes, are not judged.

    Thresholds
        share: targets outside the range of the outputs, over all
    Unit
        share of the targets
    Needs
        the model's layers; activations of the last layer, inputs/y and inputs/sample_loss
    Source
        softmax and from_logits: UMLAUT; range of the last activation: DeepDiagnosis
    """
    paths = signals.paths("activations")
    require(paths, "the trace holds no outputs of the last layer")
    several = sum(path.startswith("y") for path in signals.paths("inputs"))
    require(several == 1, "the trace does not hold one array of targets")
    layer = last_layer(signals)
    require(layer is not None, "the trace does not say which layer is the last")
    assert layer is not None
    path = f"{layer.path}/output"
    require(signals.has("activations", path), "the outputs of the last layer are not recorded")
    units = signals.tensor("activations", path).shape[-1]
    loss = (signals.attributes.loss or "").lower()
    activation = (layer.activation or "linear").lower()
    if activation == "softmax" and units == 1:
        yield _finding(
            signals,
            layer,
            "error",
            f"{layer.path} is a softmax over one unit, which gives 1 whatever goes in",
            "every prediction is the same",
            "use sigmoid for one unit, or a softmax over two",
            1.0,
        )
        return
    outputs, labels, losses = _rows(signals, path)
    if "entropy" in loss:
        yield from _of_entropy(signals, layer, outputs, labels, losses)
    elif activation in _BOUNDS and len(labels) and labels.size == outputs.size:  # else class ids
        low, high = _BOUNDS[activation]
        outside = float(((labels < low - 1e-6) | (labels > high + 1e-6)).mean())
        if outside > share:
            found = outcome(signals)
            bad = found is not None and (found.harmed or found.last > found.at(0.5))
            yield _finding(
                signals,
                layer,
                "error" if bad else "warning",
                f"{outside:.0%} of the targets lie outside what the {activation} of {layer.path} "
                "can give",
                "these targets are never reached",
                "use a linear last layer, or scale the targets into its range",
                outside,
            )


def _of_entropy(
    signals: Signals, layer: Layer, outputs: Floats, labels: Floats, losses: Floats
) -> Iterator[Finding]:
    """Compute a cross entropy in both ways, and see which one was used."""
    enough = len(losses) >= _LEAST
    require(enough, f"fewer than {_LEAST} samples have both outputs and losses recorded")
    binary = outputs.shape[-1] == 1 or "binary" in (signals.attributes.loss or "").lower()
    if not binary:  # a row of nothing but zeros has no shares, and its loss says nothing
        said = outputs.reshape(len(outputs), -1).any(axis=1)
        if said.sum() < _LEAST:
            if (layer.activation or "") == "relu":
                yield _finding(
                    signals,
                    layer,
                    _mild(signals),
                    f"{layer.path} is a ReLU that gives zero for {float(1 - said.mean()):.0%} of "
                    "the recorded samples, for every class",
                    "every prediction is the same, and no gradient passes the layer",
                    "use from_logits=True with a linear last layer, or a softmax or sigmoid",
                    float(1 - said.mean()),
                )
            return
        outputs, labels, losses = outputs[said], labels[said], losses[said]
    formula = binary_entropy if binary else categorical
    of_probabilities = [formula(outputs, labels)]
    if not binary:  # Keras clips before it normalises where classes are given by their ids
        clipped = np.clip(outputs, EPSILON, 1 - EPSILON)
        of_probabilities.append(categorical(clipped, labels, least=1e-30))
    of_logits = [formula(_sigmoid(outputs) if binary else _softmax(outputs), labels)]
    sums = outputs.sum(axis=-1)
    # Loose, because recorded numbers may have been rounded.
    in_range = ((outputs >= -_NEARLY) & (outputs <= 1 + _NEARLY)).all()
    probable = in_range and (binary or float((np.abs(sums - 1) < 5 * _NEARLY).mean()) > 0.95)
    activation = (layer.activation or "linear").lower()
    if probable and _is_softmax_of_probabilities(signals, outputs):
        yield _finding(
            signals,
            layer,
            _mild(signals),
            f"{layer.path} is a softmax of what is a softmax already: no output exceeds "
            f"{outputs.max():.2g}",
            "the loss cannot come near zero, and gradients are small",
            "leave out one of the two",
            1.0,
        )
    elif probable and _fits(of_logits, losses):
        if not _fits(of_probabilities, losses):
            yield _finding(
                signals,
                layer,
                _mild(signals),
                f"the loss takes the outputs of {layer.path} for logits, but they are "
                "probabilities already: softmax or sigmoid is applied twice",
                "gradients are small, and the loss cannot come near zero",
                "use from_logits=False, or a linear last layer",
                1.0,
            )
    elif (
        not probable
        and activation not in ("softmax", "sigmoid")
        and _fits(of_probabilities, losses)
        and not _fits(of_logits, losses)
    ):
        yield _finding(
            signals,
            layer,
            "error",
            f"the loss takes the outputs of {layer.path} ({activation}) for probabilities, which "
            f"they are not: they reach {outputs.min():.3g} to {outputs.max():.3g}",
            "the loss is clipped where they leave 0 to 1, and gives no gradient there",
            "use from_logits=True with a linear last layer, or a softmax or sigmoid",
            1.0,
        )


def _is_softmax_of_probabilities(signals: Signals, outputs: Floats) -> bool:
    """Whether the layer before the last gives probabilities too, and the last their softmax."""
    paths = signals.paths("activations")
    if len(paths) < 2 or outputs.ndim != 2 or outputs.shape[-1] < 2:
        return False
    before, last = (signals.tensor("activations", path) for path in paths[-2:])
    if before.shape != last.shape:
        return False
    row = signals.steps("activations")[-1]
    given, made = (np.asarray(each.sel(step=row), np.float64) for each in (before, last))
    given, made = given[np.isfinite(given).all(axis=1)], made[np.isfinite(made).all(axis=1)]
    if not len(given) or given.shape != made.shape or (given < 0).any():
        return False
    sums = np.abs(given.sum(axis=-1) - 1) < 5 * _NEARLY
    return bool(sums.all()) and bool(np.allclose(_softmax(given), made, atol=_NEARLY))


def _rows(signals: Signals, path: str) -> tuple[Floats, Floats, Floats]:
    """Return outputs, targets and losses of recorded samples, spread over the run."""
    steps = np.intersect1d(signals.steps("activations"), signals.steps("inputs"))
    chosen = steps[np.unique(np.linspace(0, len(steps) - 1, _ROWS // 4).astype(int))]
    outputs = np.asarray(signals.tensor("activations", path).sel(step=chosen), np.float64)
    labels = np.asarray(signals.tensor("inputs", "y").sel(step=chosen), np.float64)
    count = min(outputs.shape[1], labels.shape[1])
    known = signals.has("inputs", "sample_loss")
    losses = (
        np.asarray(signals.tensor("inputs", "sample_loss").sel(step=chosen), np.float64)[:, :count]
        if known
        else np.zeros((len(chosen), 0))
    )
    count = min(count, losses.shape[1]) if known else count
    outputs, labels = (each[:, :count].reshape(-1, *each.shape[2:]) for each in (outputs, labels))
    losses = losses.reshape(-1) if known else np.full(len(labels), np.nan)
    good = np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1)
    good &= np.isfinite(labels.reshape(len(labels), -1)).all(axis=1)
    good &= np.isfinite(losses) | (not known)
    return outputs[good], labels[good], losses[good] if known else np.zeros(0)


def _softmax(outputs: Floats) -> Floats:
    exponents = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=-1, keepdims=True))


def _sigmoid(outputs: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(outputs, -500, 500))))


def _fits(computed: list[Floats | None], recorded: Floats) -> bool:
    """Whether a formula gives the recorded losses; a few may be clipped otherwise."""
    return any(
        float(np.isclose(each, recorded, rtol=2e-2, atol=1e-4).mean()) > 0.9
        for each in computed
        if each is not None
    )


def _mild(signals: Signals) -> Severity:
    found = outcome(signals)
    return "error" if found is not None and found.last > found.at(0.5) else "warning"


def _finding(
    signals: Signals,
    layer: Layer,
    severity: Severity,
    text: str,
    consequence: str,
    remedy: str,
    observed: float,
) -> Finding:
    steps = signals.steps("activations")
    return Finding(
        rule="output_mismatch",
        severity=severity,
        first_step=int(steps[0]),
        last_step=int(steps[-1]),
        explanation=f"{text}.",
        tensor=f"activations/{layer.path}/output",
        observed=observed,
        cause="the last layer and the loss do not fit each other",
        cause_kind="set-up",
        consequence=consequence,
        remedy=remedy,
        evidence={"activation": layer.activation, "loss": signals.attributes.loss},
    )
