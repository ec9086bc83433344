"""What a step begins with, read before it, and what that says of it when it is through."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from steptrace_schema.names import LOSS_SCALE
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.carried_state import carried_states, prepared_states
from steptrace_tracer.capture.graph_statistics import gives_update
from steptrace_tracer.capture.input_gradient import InputGradientShortcut
from steptrace_tracer.capture.optimizer_state import (
    learning_rates,
    of_the_step,
    scaled_counts,
    skip_tap,
    slots_or_missing,
)

if TYPE_CHECKING:
    from steptrace_schema.format.attributes import Missing
    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.capture.names import Names
    from steptrace_tracer.capture.probe import Probe
    from steptrace_tracer.capture.program import Program
    from steptrace_tracer.capture.taps import Taps


class Readings:
    """Reads weights, slots, rates and states of a program, and runs its probe.

    Parameters
    ----------
    program, names, policy
        As :class:`~steptrace_tracer.capture.traced_step.TracedStep` takes them.

    Attributes
    ----------
    program
        The present step.
    probe
        What runs with the weights that are read; None without one.
    shortcut
        Gives the gradient with respect to the input; None where the step does.
    follows
        Whether what is read afterwards is what the step has left.
    missing
        Why some of the optimizers' slots are not read.
    """

    def __init__(self, program: Program, names: Names, policy: Policy) -> None:
        self.program = program
        self._names, self._policy = names, policy
        self.probe: Probe | None = None
        self.shortcut: InputGradientShortcut | None = None
        self.follows = True
        self.missing: tuple[Missing, ...] = ()

    def prepare(self, x: Any) -> None:
        """Make ready what is read, for a step on a batch `x`."""
        about = (self.program, self._names, self._policy)
        self.missing = prepared_states(*about)
        self.shortcut = InputGradientShortcut.of(*about, x)

    def before(self) -> dict[str, Any]:
        """Return what the step begins with, for :meth:`since`."""
        optimizers, about = self.program.optimizers, (self._names, self._policy)
        slots, missing = slots_or_missing(optimizers, *about)
        self.missing = missing or self.missing
        probed = self.probe() if self.probe is not None else {}
        return {
            "taps": probed | slots | carried_states(self.program, *about),
            "rates": learning_rates(optimizers),
            "counts": scaled_counts(optimizers),
            "weights": self.weights(updates=True) | self.weights(),
            "first": self.shortcut.weights() if self.shortcut is not None else [],
        }

    def since(
        self, before: dict[str, Any], tensors: dict[str, Any], x: Any, taps: Taps
    ) -> dict[str, Any]:
        """Return the taps of what the step began with, and of what has changed.

        Parameters
        ----------
        before
            What :meth:`before` returned.
        tensors, taps
            What the step gave, and was asked for.
        x
            Its batch.
        """
        found: dict[str, Any] = before["taps"]
        found |= of_the_step(before["rates"], self.program.optimizers, taps.appliers)
        if self.shortcut is not None:
            found |= self.shortcut.tap(before["first"], x[: self._policy.rows], tensors, taps)
        found |= {
            f"weights/{path}": tensor
            for path, tensor in before["weights"].items()
            if self._policy.covers("weights", path)
        }
        if not self.follows:
            return found
        updates = self.updates(before["weights"], self.weights(updates=True))
        return found | updates | self.skipped(before["counts"], tensors)

    def updates(self, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        """Return what was added to weights, from what :meth:`weights` returned."""
        return {f"updates/{path}": tensor - before[path] for path, tensor in after.items()}

    def skipped(self, counts: list[Any], tensors: dict[str, Any]) -> dict[str, Any]:
        """Say whether the step that began at `counts` was skipped, where its loss was scaled."""
        after = scaled_counts(self.program.optimizers)
        return skip_tap(counts, after) if f"scalars/{LOSS_SCALE}" in tensors else {}

    def weights(self, *, updates: bool = False) -> dict[str, Any]:
        """Return the models' present weights that are recorded, or whose `updates` are, by path."""
        policy = self._policy
        is_wanted = partial(gives_update, policy) if updates else partial(policy.covers, "weights")
        return {
            path: tf.identity(variable.value)
            for model in self.program.models
            for variable in model.weights
            if (path := self._names.weights.get(id(variable))) is not None and is_wanted(path)
        }
