"""What a trace says of each fit: its optimizers, loss, learning rates and trainable weights."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.format.attributes import Phase, PhaseOptimizer
from steptrace_tracer.session.known_losses import KnownLosses
from steptrace_tracer.session.provenance import describe_loss, describe_optimizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_tracer.capture.names import Names
    from steptrace_tracer.capture.program import Program
    from steptrace_tracer.capture.taps import Taps


class Phases:
    """The phases of a training, the present one last.

    Parameters
    ----------
    names
        The paths of the weights.
    earlier
        What the trace says already.
    program, step
        What trains, and its first step.
    """

    def __init__(self, names: Names, earlier: TraceAttributes, program: Program, step: int) -> None:
        self._names = names
        self._found = list(earlier.phases)
        self._losses = KnownLosses(earlier.losses if earlier.records else None)
        self._told: list[Phase] = []
        self._program = program
        self._used: set[int] = set()
        self.begin(program, step)

    def begin(self, program: Program, step: int) -> None:
        """Note that steps from `step` on are those of `program`."""
        if list(map(id, program.optimizers)) != list(map(id, self._program.optimizers)):
            self._used = set()
        self._program = program
        self._found = [phase for phase in self._found if phase.step < step]
        phase = self._describe(program, step)
        last = self._found[-1] if self._found else None
        if last is None or phase.model_copy(update={"step": last.step}) != last:
            self._found.append(phase)

    def news(self, taps: Taps | None = None) -> dict[str, Any]:
        """Return root attributes that the trace does not have yet.

        Parameters
        ----------
        taps
            What a step has shown.
        """
        losses = {} if taps is None else self._losses.news(taps.target_losses)
        return losses | self._own_news([] if taps is None else taps.appliers)

    def _own_news(self, appliers: Sequence[Any]) -> dict[str, Any]:
        program, fresh = self._program, {id(found) for found in appliers} - self._used
        if fresh and len(program.optimizers) > 1:
            self._used |= fresh
            latest = self._found[-1]
            update = {"optimizers": self._describe(program, latest.step).optimizers}
            self._found[-1] = latest.model_copy(update=update)
        if self._told == self._found:
            return {}
        self._told = [*self._found]
        used = [o for o in program.optimizers if id(o) in self._used] or program.optimizers
        return {"phases": tuple(self._found), "optimizer": describe_optimizer(used[0])}

    def _describe(self, program: Program, step: int) -> Phase:
        frozen = program.frozen
        view = next(iter(frozen.views.values()), None) if frozen is not None else None
        # What is changed without another compile does not change the training.
        with nullcontext() if view is None else view.restored():
            trainable = [v for model in program.models for v in model.trainable_weights]
        paths = (self._names.weights.get(id(v)) for v in trainable)
        return Phase(
            step=step,
            optimizers=tuple(self._optimizer(optimizer) for optimizer in program.optimizers),
            loss=describe_loss(program.compiled_model),
            trainable=tuple(dict.fromkeys(path for path in paths if path is not None)),
        )

    def _optimizer(self, optimizer: Any) -> PhaseOptimizer:
        described = describe_optimizer(optimizer)
        return PhaseOptimizer(
            name=str(optimizer.name),
            class_name=described.class_name,
            config=described.config,
            learning_rate=_finite(optimizer.learning_rate),
            used=not self._used or id(optimizer) in self._used,
        )


def _finite(rate: Any) -> float | None:
    value = float(np.asarray(rate))
    return value if np.isfinite(value) else None
