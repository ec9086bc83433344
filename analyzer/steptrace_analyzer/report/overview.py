"""The parts of the page that are text: summary, findings, layers, what is missing, recording."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from steptrace_analyzer.plots.steps import by_size
from steptrace_analyzer.report.markup import Markup, element, facts, join, table
from steptrace_analyzer.text import shape_text
from steptrace_analyzer.trace.select import format_steps, get_tensor, has_tensor, recorded_steps
from steptrace_schema.human import human_bytes
from steptrace_schema.names import LOSS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr

    from steptrace_analyzer.anomalies import Anomaly
    from steptrace_analyzer.report.page import StepChoices
    from steptrace_analyzer.trace.info import TraceInfo
    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_schema.format.policy import Policy

_STATUS: Final = {
    "complete": "complete: the run closed it",
    "incomplete": "incomplete: the run ended without closing it",
    "recording": "recording: the run is still writing it",
}
_WORDS: Final = {
    "jump": "parameters jumped",
    "gradient": "gradient jumped",
    "non_finite": "not finite",
}


def summary(trace: xr.DataTree, attributes: TraceAttributes, info: TraceInfo | None) -> Markup:
    """Say what the trace is: model, status, steps, loss, bytes."""
    model, optimizer = attributes.model, attributes.optimizer
    status = _STATUS[attributes.status]
    if attributes.status_reason:
        status += f" ({attributes.status_reason})"
    steps: list[int] = []
    loss = ""
    if has_tensor(trace, "scalars", LOSS):
        tensor = get_tensor(trace, "scalars", LOSS)
        steps = recorded_steps(tensor)
        if steps:
            first, last = (float(tensor[row]) for row in (0, -1))
            loss = f"{first:.4g} at step {steps[0]}, {last:.4g} at step {steps[-1]}"
    parts = [
        facts(
            [
                ("Status", status),
                ("Run", attributes.run_id),
                ("Started", attributes.created),
                ("Finished", attributes.finished or ""),
                ("Recorded by", attributes.producer),
                ("Format", f"steptrace {attributes.version}"),
                (
                    "Model",
                    f"{model.class_name} '{model.name}', {model.parameters:,} parameters, "
                    f"{model.trainable_parameters:,} of them trainable"
                    if model
                    else "",
                ),
                ("Loss function", attributes.loss or ""),
                ("Optimizer", optimizer.class_name if optimizer else ""),
                ("Steps", f"{len(steps)} ({format_steps(steps)})" if steps else "none"),
                ("Loss", loss),
                ("Size on disk", human_bytes(info.stored_bytes) if info else ""),
                (
                    "In the journal",
                    human_bytes(info.journal_bytes) if info and info.journal_bytes else "",
                ),
            ]
        )
    ]
    if info is not None:
        parts.append(
            table(
                ("kind", "steps", "tensors", "raw", "stored"),
                [
                    (
                        kind.kind,
                        format_steps(kind.steps) or "-",
                        str(kind.tensors),
                        human_bytes(kind.raw_bytes),
                        "derived" if kind.stored_bytes is None else human_bytes(kind.stored_bytes),
                    )
                    for kind in info.kinds
                ],
                numbers=3,
            )
        )
    return join(parts)


def findings(anomalies: Sequence[Anomaly], choices: StepChoices) -> Markup:
    """Explain every anomaly, the biggest first.

    Parameters
    ----------
    anomalies
        What was found.
    choices
        The steps at which the page has figures.
    """
    if not anomalies:
        return element(
            "p",
            "Nothing unusual was found: no jump of parameters or gradients, ",
            "and no value that is not finite.",
        )
    items = []
    for anomaly in by_size(anomalies):
        parts: list[str | Markup] = [
            element("strong", f"Step {anomaly.step}: {_WORDS[anomaly.kind]}. "),
            anomaly.explain(),
        ]
        if anomaly.step in choices.steps:
            parts.append(" ")
            parts.append(
                element(
                    "label",
                    f"Show all figures at step {anomaly.step}",
                    for_=choices.control(anomaly.step),
                    class_="show",
                )
            )
        items.append(element("li", *parts))
    return element("ol", *items, class_="findings")


def layers(attributes: TraceAttributes, anchors: Mapping[str, str]) -> Markup:
    """List the model's layers; those that have their own section link to it."""
    if not attributes.layers:
        return element("p", "The trace does not describe the layers of the model.")
    return table(
        ("layer", "class", "activation", "output", "parameters"),
        [
            (
                element("a", layer.path, href=f"#{anchors[layer.path]}")
                if layer.path in anchors
                else layer.path,
                layer.class_name,
                layer.activation or "-",
                "-" if layer.output_shape is None else shape_text(layer.output_shape),
                f"{layer.parameters:,}" + ("" if layer.trainable else " (frozen)"),
            )
            for layer in attributes.layers
        ],
        numbers=2,
    )


def missing(attributes: TraceAttributes) -> Markup:
    """List what was declared and has no data, with the reasons, and what happened meanwhile."""
    parts: list[Markup] = []
    if attributes.missing:
        parts.append(
            table(
                ("tensor", "steps", "reason"),
                [
                    (
                        f"{lost.kind}/{lost.path}",
                        "all" if lost.steps is None else format_steps(lost.steps),
                        lost.reason,
                    )
                    for lost in attributes.missing
                ],
            )
        )
    else:
        parts.append(element("p", "Nothing: all that was declared is recorded."))
    if attributes.events:
        parts.append(element("h3", "Events while recording"))
        parts.append(
            table(
                ("time", "step", "event"),
                [
                    (event.time, "-" if event.step is None else str(event.step), event.message)
                    for event in attributes.events
                ],
            )
        )
    return join(parts)


def recording(attributes: TraceAttributes) -> Markup:
    """Say what was to be recorded, and on what machine and software."""
    policy = attributes.policy
    parts = [
        element("h3", "Policy"),
        facts(
            [
                ("Kinds", ", ".join(policy.kinds)),
                ("Every", "step" if policy.every == 1 else f"{policy.every} steps"),
                ("Samples", _samples(policy)),
                ("Include", ", ".join(policy.include)),
                ("Exclude", ", ".join(policy.exclude) or "nothing"),
                ("Profile", policy.profile),
            ]
        ),
    ]
    if attributes.optimizer and attributes.optimizer.config:
        parts += [element("h3", "Optimizer"), _settings(attributes.optimizer.config)]
    if attributes.environment:
        parts += [element("h3", "Environment"), _settings(attributes.environment)]
    return join(parts)


def _samples(policy: Policy) -> str:
    if isinstance(policy.samples, int):
        return f"the first {policy.samples} of each batch"
    return f"{policy.sample_count} of given ids, where they occur"


def _settings(values: Mapping[str, object]) -> Markup:
    return facts(
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in values.items()
    )
