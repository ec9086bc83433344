"""Layers that do not learn because of how the model is set up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steptrace_analyzer.anomalies.finding import Finding
from steptrace_analyzer.anomalies.outcome import is_harmed
from steptrace_analyzer.anomalies.signals import require
from steptrace_analyzer.anomalies.words import listed, plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steptrace_analyzer.anomalies.signals import Signals
    from steptrace_schema.format.attributes import Layer


def frozen(signals: Signals) -> Iterator[Finding]:
    """List layers with weights that are set not to learn, and weights that no loss depends on.

    A layer with ``trainable=False`` is worth knowing only: the base of a fine-tuned model is meant
    to be so. A trainable weight of which the trace says that the loss does not depend on it is a
    warning, and an error where the run is harmed: its layer is not connected, or a gradient is cut.

    Thresholds
        none
    Unit
        weights
    Needs
        the model's layers, and what is missing of the gradients
    Source
        gradients that are None: TensorFlow, "Introduction to gradients and automatic
        differentiation"
    """
    attributes = signals.attributes
    require(attributes.layers, "the trace does not list the model's layers")
    steps = signals.loss.steps
    for first, last, still in _frozen(signals):
        count = sum(layer.parameters for layer in still)
        yield Finding(
            rule="frozen",
            severity="info",
            first_step=first,
            last_step=last,
            explanation=(
                f"{plural(count, 'parameter')} of {listed([layer.path for layer in still])} are "
                "set not to learn (trainable=False)."
            ),
            tensor=f"weights/{still[0].variables[0]}",
            observed=float(count),
            cause="the layers are frozen",
            cause_kind="set-up",
            remedy="set trainable=True and compile again, where they are meant to learn",
            others=tuple(f"weights/{layer.variables[0]}" for layer in still[1:]),
        )
    cut = [
        entry.path
        for entry in attributes.missing
        if entry.kind == "gradients" and entry.steps is None and "does not depend" in entry.reason
    ]
    if cut:
        yield Finding(
            rule="frozen",
            severity="error" if is_harmed(signals) else "warning",
            first_step=int(steps[0]),
            last_step=int(steps[-1]),
            explanation=f"the loss does not depend on {listed(cut)}, which get no gradient.",
            tensor=f"weights/{cut[0]}",
            observed=float(len(cut)),
            cause="the layer is not connected to the loss, or its gradient is cut",
            cause_kind="set-up",
            consequence="these weights stay as they were initialised",
            remedy="look for outputs that are not used, stop_gradient, rounding and argmax",
            others=tuple(f"weights/{path}" for path in cut[1:]),
        )


def _frozen(signals: Signals) -> Iterator[tuple[int, int, list[Layer]]]:
    """Yield the first and the last step of each part of the run with the layers that are frozen.

    A trace of before format 1.3 says only what was so in the end.
    """
    attributes, steps = signals.attributes, signals.loss.steps
    layers = [layer for layer in attributes.layers if layer.variables]
    found: list[tuple[int, list[Layer]]] = []
    for phase in attributes.phases:
        trained = set(phase.trainable)
        # Of a layer that is trained, some weights are moving averages.
        own = [
            layer
            for layer in layers
            if trained.isdisjoint(layer.variables) and _is_ever_trained(signals, layer)
        ]
        if not found or found[-1][1] != own:
            found.append((phase.step, own))
    if not attributes.phases:
        found = [(int(steps[0]), [layer for layer in layers if not layer.trainable])]
    for number, (first, still) in enumerate(found):
        end = found[number + 1][0] - 1 if number + 1 < len(found) else int(steps[-1])
        inside = steps[(steps >= first) & (steps <= end)]
        if still and len(inside):
            yield int(inside[0]), int(inside[-1]), still


def _is_ever_trained(signals: Signals, layer: Layer) -> bool:
    """Whether a layer has weights that could be trained: it is frozen, or another phase does."""
    return not layer.trainable or any(
        not set(phase.trainable).isdisjoint(layer.variables) for phase in signals.attributes.phases
    )
