"""The parts of the page that are text: summary, findings, layers, what is missing, recording."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from steptrace_analyzer.report.contents import Fact, Link, StepChoices, Table, Told, step_place
from steptrace_analyzer.text import shape_text
from steptrace_analyzer.trace.select import format_steps, get_tensor, has_tensor, recorded_steps
from steptrace_schema.human import human_bytes
from steptrace_schema.names import LOSS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr

    from steptrace_analyzer.anomalies.stories import Story
    from steptrace_analyzer.trace.info import TraceInfo
    from steptrace_schema.format.attributes import Interval, TraceAttributes
    from steptrace_schema.format.policy import Policy

_STATUS: Final = {
    "complete": "complete: the run closed it",
    "incomplete": "incomplete: the run ended without closing it",
    "recording": "recording: the run is still writing it",
}


def summary(
    trace: xr.DataTree, attributes: TraceAttributes, info: TraceInfo | None
) -> tuple[Fact, ...]:
    """Say what the trace is: model, status, steps, loss, bytes."""
    optimizer = attributes.optimizer
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
    return (
        Fact("Status", status),
        Fact("Run", attributes.run_id),
        Fact("Started", attributes.created),
        Fact("Finished", attributes.finished or ""),
        Fact("Recorded by", attributes.producer),
        Fact("Format", f"steptrace {attributes.version}"),
        Fact("Model", _model(attributes)),
        Fact("Loss function", attributes.loss or ""),
        Fact("Optimizer", optimizer.class_name if optimizer else ""),
        Fact("Steps", f"{len(steps)} ({format_steps(steps)})" if steps else "none"),
        Fact("Loss", loss),
        Fact("Size on disk", human_bytes(info.stored_bytes) if info else ""),
        Fact(
            "In the journal",
            human_bytes(info.journal_bytes) if info and info.journal_bytes else "",
        ),
    )


def kinds(info: TraceInfo) -> Table:
    """List what the trace holds of each kind."""
    return Table(
        ("kind", "steps", "tensors", "raw", "stored"),
        tuple(
            (
                kind.kind,
                format_steps(kind.steps) or "-",
                str(kind.tensors),
                human_bytes(kind.raw_bytes),
                "derived" if kind.stored_bytes is None else human_bytes(kind.stored_bytes),
            )
            for kind in info.kinds
        ),
        numbers=3,
    )


def stories(told: Sequence[Story], choices: StepChoices) -> tuple[Told, ...]:
    """Tell every story, the worst first: a cause, its effects, and what to do.

    Parameters
    ----------
    told
        What a diagnosis found.
    choices
        The steps at which the page has figures.
    """
    return tuple(
        Told(
            heading=f"Step {story.step} ({story.severity}):",
            text=_sentence(story.head.explanation),
            step=story.step,
            control=step_place(story.step) if story.step in choices.steps else None,
            effects=tuple(_sentence(effect.explanation) for effect in story.findings[1:]),
            remedy=story.head.remedy,
        )
        for story in told
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def layers(attributes: TraceAttributes, anchors: Mapping[str, str]) -> Table | None:
    """List the model's layers; those that have their own section link to it."""
    if not attributes.layers:
        return None
    return Table(
        ("layer", "class", "activation", "output", "parameters"),
        tuple(
            (
                Link(layer.path, anchors[layer.path]) if layer.path in anchors else layer.path,
                layer.class_name,
                layer.activation or "-",
                "-" if layer.output_shape is None else shape_text(layer.output_shape),
                f"{layer.parameters:,}" + ("" if layer.trainable else " (frozen)"),
            )
            for layer in attributes.layers
        ),
        numbers=2,
    )


def missing(attributes: TraceAttributes) -> Table | None:
    """List what was declared and has no data, with the reasons."""
    if not attributes.missing:
        return None
    return Table(
        ("tensor", "steps", "reason"),
        tuple(
            (
                f"{lost.kind}/{lost.path}",
                "all" if lost.steps is None else format_steps(lost.steps),
                lost.reason,
            )
            for lost in attributes.missing
        ),
    )


def events(attributes: TraceAttributes) -> Table | None:
    """List what happened to the recording."""
    if not attributes.events:
        return None
    return Table(
        ("time", "step", "event"),
        tuple(
            (event.time, "-" if event.step is None else str(event.step), event.message)
            for event in attributes.events
        ),
    )


def policy(attributes: TraceAttributes) -> tuple[Fact, ...]:
    """Say what was to be recorded."""
    wanted = attributes.policy
    return (
        Fact("Kinds", ", ".join(wanted.kinds)),
        Fact("Every", _every(wanted, attributes.intervals)),
        Fact("Samples", _samples(wanted)),
        Fact("Include", ", ".join(wanted.include)),
        Fact("Exclude", ", ".join(wanted.exclude) or "nothing"),
        Fact("Profile", wanted.profile),
    )


def settings(values: Mapping[str, object]) -> tuple[Fact, ...]:
    """List settings of any type."""
    return tuple(
        Fact(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in values.items()
    )


def _model(attributes: TraceAttributes) -> str:
    model = attributes.model
    if model is None:
        return ""
    return (
        f"{model.class_name} '{model.name}', {model.parameters:,} parameters, "
        f"{model.trainable_parameters:,} of them trainable"
    )


def _every(policy: Policy, intervals: tuple[Interval, ...]) -> str:
    if not intervals:
        return "step" if policy.every == 1 else f"{policy.every} steps"
    found = ", ".join(f"{entry.every} from step {entry.step}" for entry in intervals)
    allowed = f"{policy.max_slowdown or 0:.0%} more time"
    return f"{found} (auto: at most {allowed})" if policy.max_slowdown else found


def _samples(policy: Policy) -> str:
    if isinstance(policy.samples, int):
        return f"the first {policy.samples} of each batch"
    return f"{policy.sample_count} of given ids, where they occur"
