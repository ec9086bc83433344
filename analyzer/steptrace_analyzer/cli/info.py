"""``steptrace info``."""

from typing import TYPE_CHECKING

from steptrace_analyzer.cli._options import Json, TracePath
from steptrace_analyzer.cli._output import Column, write_json, write_line, write_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from steptrace_analyzer.trace.info import TraceInfo
    from steptrace_schema.format.attributes import FinalWeights, Missing, TraceAttributes

_MOST_ALIKE = 4
"""Tensors that are missing for one reason and have a line each."""


def info(trace: TracePath, as_json: Json = False) -> None:
    """Show what a trace contains, and its status.

    Prints the model and its layers, what is recorded at which steps, raw and stored bytes, and what
    is missing, with the reason.

    Examples
    --------
    steptrace info run.zarr
    steptrace info run.zarr --json
    """
    from steptrace_analyzer.trace.info import describe
    from steptrace_analyzer.trace.open import open_trace

    described = describe(open_trace(trace), trace)
    if as_json:
        write_json(described.document())
    else:
        _show(described)


def _show(described: "TraceInfo") -> None:
    from steptrace_analyzer.trace.select import format_steps
    from steptrace_schema.human import human_bytes
    from steptrace_schema.validate.coverage import summarize

    attributes = described.attributes
    status: str = attributes.status
    if attributes.status_reason:
        status += f" ({attributes.status_reason})"
    write_line(f"{described.path}: {status}")
    ended = f", finished {attributes.finished}" if attributes.finished else ""
    write_line(f"run       {attributes.run_id}, started {attributes.created}{ended}")
    steps = f"{len(described.steps)} ({format_steps(described.steps)})"
    write_line(f"steps     {steps if described.steps else 'none yet'}")
    if described.loss is not None:
        name = f" ({attributes.loss})" if attributes.loss else ""
        write_line(f"loss      {described.loss[0]:.4g} -> {described.loss[1]:.4g}{name}")
    if described.validation:
        values = (f"{n} {a:.4g} -> {b:.4g}" for n, (a, b) in described.validation.items())
        write_line(f"validated {', '.join(values)}")
    size = human_bytes(described.stored_bytes)
    if described.journal_bytes:
        size += f", and {human_bytes(described.journal_bytes)} in the journal"
    write_line(f"size      {size}")
    if attributes.model is not None:
        model = attributes.model
        write_line(
            f"model     {model.class_name} '{model.name}', {model.parameters:,} parameters, "
            f"{model.trainable_parameters:,} trainable"
        )
    if attributes.optimizer is not None:
        write_line(f"optimizer {attributes.optimizer.class_name}")
    for line in _phase_lines(attributes):
        write_line(f"phase     {line}")
    for interval in attributes.intervals:
        how_many = "every step" if interval.every == 1 else f"one step in {interval.every}"
        write_line(f"interval  from step {interval.step}: {how_many}, since {interval.reason}")
    if proved := _proved(described.attributes):
        write_line(f"unchanged {proved}")
    _show_environment(described)
    _show_layers(described)
    _show_kinds(described)
    write_line(summarize(described.coverage))
    for line in _missing_lines(described.missing):
        write_line(f"missing: {line}")
    if (final := attributes.final) is not None:
        write_line(f"ends with: {_final_text(final)}")
    for incident in attributes.incidents:
        size = human_bytes(incident.nbytes)
        write_line(f"incident: step {incident.step} ({size}): {incident.reason}")
        for line in (incident.message or "").splitlines():
            write_line(f"    {line}".rstrip())
        for lacks in incident.not_kept:
            write_line(f"    not kept: {lacks}")
    for event in described.events:
        at = "" if event.step is None else f" step {event.step}:"
        write_line(f"event: {event.time}:{at} {event.message}")


def _missing_lines(missing: "Iterable[Missing]") -> "Iterator[str]":
    """Say what is missing and why; many tensors that are so for one reason are one line."""
    from steptrace_analyzer.anomalies.words import listed
    from steptrace_analyzer.trace.select import format_steps

    alike: dict[tuple[str, str], list[str]] = {}
    for each in missing:
        at = "" if each.steps is None else f" at steps {format_steps(each.steps)}"
        alike.setdefault((at, each.reason), []).append(f"{each.kind}/{each.path}")
    for (at, reason), paths in alike.items():
        more = len(paths) > _MOST_ALIKE
        for text in [f"{listed(paths, 3)} (all in --json)"] if more else paths:
            yield f"{text}{at}: {reason}"


def _phase_lines(attributes: "TraceAttributes") -> list[str]:
    """Say how each phase trains, where there are several of them or several optimizers."""
    phases = attributes.phases
    if len(phases) < 2 and all(len(phase.optimizers) < 2 for phase in phases):
        return []
    weights = len({path for layer in attributes.layers for path in layer.variables})
    return [
        f"from step {phase.step}: "
        + ", ".join(
            f"{one.class_name} '{one.name}'"
            + (f" at {one.learning_rate:.4g}" if one.learning_rate is not None else "")
            + ("" if one.used else " (not used)")
            for one in phase.optimizers
        )
        + (f"; loss {phase.loss}" if phase.loss else "")
        + f"; {len(phase.trainable)} of {weights} weights trained"
        for phase in phases
    ]


def _final_text(final: "FinalWeights") -> str:
    """Say which weights the model ended with."""
    if not final.changed:
        return final.reason
    same = ""
    if final.same_as is not None and final.cause != "other":
        same = f"; they are those before step {final.same_as}"
    kept = f"stored under 'final' ({', '.join(final.arrays[:3])}"
    kept += f" and {len(final.arrays) - 3} more)" if len(final.arrays) > 3 else ")"
    if not final.arrays:
        kept = f"not stored: {final.not_kept}"
    return (
        f"{final.changed} of {final.compared} weights are not those that the last step left: "
        f"{final.reason}{same}; {kept}"
    )


def _proved(attributes: "TraceAttributes") -> str:
    """Say how it is known that the tracer left the training as it was."""
    from steptrace_analyzer.trace.select import format_steps

    proofs = attributes.proofs
    if "beside" in attributes.capture.values():
        changed = next((proof.note for proof in proofs if not proof.identical), None)
        why = f", since taps in it change bits ({changed})" if changed else ""
        return f"the step ran without the tracer, and was computed beside for the record{why}"
    if not proofs:
        return ""
    if noisy := next((proof for proof in proofs if proof.repeats is False), None):
        return (
            f"cannot be shown, since two runs of step {noisy.step} without the tracer leave other "
            "bits, too; make the operations deterministic to have it shown"
        )
    shown = format_steps([proof.step for proof in proofs if proof.note is None])
    when = f"at steps {shown}" if shown else f"({proofs[0].note})"
    return f"every variable had the same bits with and without the tracer {when}"


def _show_environment(described: "TraceInfo") -> None:
    plain = {
        name: value
        for name, value in described.attributes.environment.items()
        if isinstance(value, str | int | float)
    }
    parts = [described.attributes.producer, *(f"{name} {value}" for name, value in plain.items())]
    write_line(f"recorded  by {', '.join(dict.fromkeys(parts))}")


def _show_layers(described: "TraceInfo") -> None:
    from steptrace_analyzer.text import shape_text

    if not described.layers:
        return
    write_line("")
    write_table(
        [
            Column("layer"),
            Column("class"),
            Column("activation"),
            Column("output", right=True),
            Column("parameters", right=True),
        ],
        [
            (
                layer.path,
                layer.class_name,
                layer.activation,
                None if layer.output_shape is None else shape_text(layer.output_shape),
                f"{layer.parameters:,}",
            )
            for layer in described.layers
        ],
    )


def _show_kinds(described: "TraceInfo") -> None:
    from steptrace_analyzer.trace.select import format_steps
    from steptrace_schema.human import human_bytes

    write_line("")
    write_table(
        [
            Column("kind"),
            Column("tensors", right=True),
            Column("steps"),
            Column("raw", right=True),
            Column("stored", right=True),
            Column("stored/raw", right=True),
        ],
        [
            (
                kind.kind,
                kind.tensors,
                format_steps(kind.steps),
                human_bytes(kind.raw_bytes),
                "derived" if kind.stored_bytes is None else human_bytes(kind.stored_bytes),
                None if kind.ratio is None else f"{kind.ratio:.2f}",
            )
            for kind in described.kinds
        ],
    )
