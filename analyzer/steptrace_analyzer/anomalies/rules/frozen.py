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
    still = [layer for layer in attributes.layers if not layer.trainable and layer.variables]
    if still:
        count = sum(layer.parameters for layer in still)
        yield Finding(
            rule="frozen",
            severity="info",
            first_step=int(steps[0]),
            last_step=int(steps[-1]),
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
