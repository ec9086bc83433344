"""One step, or several together, on their way to the journal."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from steptrace_tracer.record.declare import specify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from steptrace_schema.format.attributes import FinalWeights, Incident, Missing
    from steptrace_schema.format.policy import Policy
    from steptrace_schema.moving.resume import Continuation

_REPLACED: Final = (
    "when the training ended, {} of {} weights were no longer those that the last step left: {}"
)

Arrays = dict[str, "npt.NDArray[Any]"]


@dataclasses.dataclass(frozen=True)
class KeptStep:
    """A step that is kept as a whole: what is said of it, and its arrays by path."""

    incident: Incident
    arrays: Arrays


@dataclasses.dataclass(frozen=True)
class KeptFinal:
    """The weights that a model ends with: what is said of them, and those that differ.

    Attributes
    ----------
    said
        What the trace says of them.
    arrays
        ``weights/path`` to value.
    """

    said: FinalWeights
    arrays: Arrays

    @property
    def notes(self) -> tuple[str, ...]:
        """The sentence for the events of the trace; none where no weight differs."""
        if not self.said.changed:
            return ()
        return (_REPLACED.format(self.said.changed, self.said.compared, self.said.reason),)


@dataclasses.dataclass(frozen=True)
class Collected:
    """The arrays of a step, or of several together, and what is to be said of them.

    Attributes
    ----------
    arrays
        ``kind/path`` to value.
    missing
        What it has no data for, with reasons.
    notes
        Sentences for the events of the trace; each is kept once.
    attributes
        Root attributes that the step gives new values, by name.
    whole
        Steps that are kept as a whole, this one or the one before it.
    final
        The weights that the model ends with, beside the last ones.
    described
        Whether arrays that are only described are there as their statistics.
    together
        Of how many steps the arrays are, dims (step, ...); None where they are one step's.
    """

    arrays: Arrays
    missing: tuple[Missing, ...] = ()
    notes: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    whole: tuple[KeptStep, ...] = ()
    final: KeptFinal | None = None
    described: bool = False
    together: int | None = None

    @property
    def one_step(self) -> Arrays:
        """The arrays of one step, the first one."""
        if self.together is None:
            return self.arrays
        return {key: values[0, ...] for key, values in self.arrays.items()}


@dataclasses.dataclass(frozen=True)
class PendingStep:
    """One step, or several together, on their way to the journal.

    Attributes
    ----------
    step
        Its number, or that of the first one.
    collect
        Turns the tensors into arrays.
    """

    step: int
    collect: Callable[[], Collected]

    def resuming(self, before: Continuation | None, policy: Policy) -> PendingStep:
        """Return the same step as the first one that resumes a trace, where there is one."""
        if before is None:
            return self

        def go_on() -> Collected:
            collected = self.collect()
            # Refuses another model, while the trace is as it was.
            specify(collected.one_step, policy, before.arrays, described=collected.described)
            before.begin()
            return collected

        return PendingStep(self.step, go_on)
