"""What captures the steps of one recording: one for each function that trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steptrace_schema.names import X
from steptrace_tracer.capture.proof_memory import ProofMemory
from steptrace_tracer.capture.proven_step import ProvenStep

if TYPE_CHECKING:
    from steptrace_schema.moving.resume import Continuation
    from steptrace_tracer.capture.names import Names
    from steptrace_tracer.capture.program import Program
    from steptrace_tracer.session.settings import Settings


class Captures:
    """Finds what captures the steps of a program.

    Parameters
    ----------
    settings
        How steps are captured, and whether other processes take part in the training.
    names
        As :class:`ProvenStep` takes them.
    before
        The trace that is resumed, None for a new one.
    """

    def __init__(self, settings: Settings, names: Names, before: Continuation | None) -> None:
        self._way, self._is_worker = settings.capture, settings.worker is not None
        self._names = names
        self._policy = settings.policy
        self._probe = _probe_for(settings, before)
        self._found: dict[int, tuple[Program, ProvenStep]] = {}
        self._ways = {} if before is None else {**before.attributes.capture}
        self._proofs = [] if before is None else [*before.attributes.proofs]

    def of(self, program: Program) -> ProvenStep:
        """Return what captures steps of `program`: what did so before, if Keras keeps the step."""
        key = id(program if program.frozen is None else program.frozen)
        known = self._found.get(key)
        if known is None or known[0] is not program:
            self._found[key] = (program, self._kept(program))
        return self._found[key][1]

    def news(self, capture: ProvenStep) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return what the trace does not say yet, of all its steps: root attributes, and events.

        A kind is captured beside the step if it was so at any step.
        """
        attributes, events = capture.news()
        if attributes:
            self._proofs += [p for p in attributes["proofs"] if p not in self._proofs]
            beside = {kind for kind, way in self._ways.items() if way == "beside"}
            self._ways |= {k: w for k, w in attributes["capture"].items() if k not in beside}
            proofs = sorted(self._proofs, key=lambda proof: proof.step)
            attributes = {"capture": {**self._ways}, "proofs": tuple(proofs)}
        return attributes, events

    def _kept(self, program: Program) -> ProvenStep:
        frozen = program.frozen
        if frozen is None or frozen.eager:
            return self._new(program)
        names = (*self._names.layers.items(), *self._names.weights.items())
        key = (self._way, self._policy.model_dump_json(), *names)
        kept: ProvenStep | None = frozen.captures.get(key)
        if kept is None:
            kept = frozen.captures[key] = self._new(program)
        else:
            kept.go_on(program, self._shared_probe())
        return kept

    def _new(self, program: Program) -> ProvenStep:
        arguments = (program, self._names, self._policy, self._shared_probe())
        return ProvenStep(*arguments, self._way, ProofMemory(), is_worker=self._is_worker)

    def _shared_probe(self) -> Any:
        """Return the inputs of the probe, which are the same at all steps of a trace."""
        if self._probe is not None:
            return self._probe
        probes = (capture.traced.probe for _, capture in self._found.values())
        return next((probe.x for probe in probes if probe is not None), None)


def _probe_for(settings: Settings, before: Continuation | None) -> Any:
    """Return the inputs of the probe, None for those of the first batch.

    A trace that is resumed keeps those that it has.
    """
    if settings.probe is None and before is not None and list(before.probe) == [X]:
        return before.probe[X]
    return settings.probe
