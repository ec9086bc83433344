"""What a trace will cost: bytes by kind and layer, and the time of a step."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from steptrace_schema.format.policy import MAX_SLOWDOWN
from steptrace_schema.json_ready import as_json
from steptrace_tracer.planning.document import PlanDocument
from steptrace_tracer.session.auto_interval import fitting_interval
from steptrace_tracer.session.step_times import Cost

if TYPE_CHECKING:
    from collections.abc import Callable

    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.planning.document import PlannedTensors


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a trace will cost.

    Attributes
    ----------
    policy
        What would be recorded.
    tensors
        Bytes of a recorded step by kind and layer.
    unless_consecutive
        The same for what is recorded in addition where not every step is: the updates.
    steps, steps_per_epoch
        Length of the run; None where it is not known.
    untraced_seconds, traced_seconds
        Median time of a step. What the recorder does beside the training is not in it.
    budget
        Bytes that the whole trace may take; None for any number.
    fitting
        The policy that takes no more than `budget` bytes; None without a budget, and where no
        whole step fits.
    once_bytes
        Bytes in the store that do not depend on how many steps there are: names and shapes.
    """

    policy: Policy
    tensors: tuple[PlannedTensors, ...]
    unless_consecutive: tuple[PlannedTensors, ...]
    steps: int | None
    steps_per_epoch: int | None
    untraced_seconds: float
    traced_seconds: float
    budget: int | None = None
    fitting: Policy | None = None
    once_bytes: int = 0

    @property
    def step_bytes(self) -> int:
        """Bytes of a recorded step, before encoding."""
        return self.bytes_of_a_step(self.policy)

    @property
    def run_bytes(self) -> int | None:
        """Bytes of the whole trace, before encoding; None where the run's length is not known."""
        return self.bytes_of_a_run(self.policy)

    @property
    def stored_bytes(self) -> int | None:
        """Bytes of the whole trace on disk, about; None where the run's length is not known."""
        found = self._of_a_run(self.policy, lambda row: row.stored_bytes)
        return None if found is None else round(found) + self.once_bytes

    @property
    def slow_down(self) -> float:
        """Time of a traced step over that of another one."""
        return self.traced_seconds / self.untraced_seconds

    @property
    def max_slowdown(self) -> float:
        """By how much the training may be slowed down; as for ``every="auto"`` if by any."""
        return self.policy.max_slowdown or MAX_SLOWDOWN

    def every(self, least: int = 1) -> int:
        """Return the smallest interval, from `least` on, that slows down by no more than that."""
        added = self.traced_seconds - self.untraced_seconds
        return fitting_interval(Cost(self.untraced_seconds, added), self.max_slowdown, least)

    def rows(self, policy: Policy) -> tuple[PlannedTensors, ...]:
        """Return what a step takes by kind and layer, as `policy` says how often."""
        more = () if policy.derives_updates else self.unless_consecutive
        return (*(row for row in self.tensors if not _is_rare(row, policy)), *more)

    def bytes_of_a_step(self, policy: Policy) -> int:
        """Return the bytes of a recorded step, before encoding, without what few steps have."""
        return sum(row.step_bytes for row in self.rows(policy))

    def bytes_of_a_run(self, policy: Policy) -> int | None:
        """Return the bytes of the whole trace: the recorded steps, and the last weights."""
        found = self._of_a_run(policy, lambda row: row.step_bytes)
        return None if found is None else round(found)

    def _of_a_run(self, policy: Policy, size: Callable[[PlannedTensors], float]) -> float | None:
        if self.steps is None:
            return None
        length = self.steps_per_epoch or self.steps
        every = policy.every if policy.max_slowdown is None else self.every(policy.every)
        steps = range(0, self.steps, every)
        recorded = sum(policy.records_step(step, step // length, every) for step in steps)
        step = sum(map(size, self.rows(policy)))
        last = sum(size(row) for row in self.tensors if row.kind == "weights")
        rare = sum(size(row) for row in self.tensors if _is_rare(row, policy))
        return recorded * step + _rows(policy, recorded) * rare + last

    def document(self) -> PlanDocument:
        """Return what ``steptrace plan --json`` prints."""
        return PlanDocument(
            policy=self.policy,
            tensors=self.rows(self.policy),
            step_bytes=self.step_bytes,
            steps=self.steps,
            run_bytes=self.run_bytes,
            stored_bytes=self.stored_bytes,
            untraced_seconds=self.untraced_seconds,
            traced_seconds=self.traced_seconds,
            slow_down=self.slow_down,
            every=self.every(),
            max_slowdown=self.max_slowdown,
            budget=self.budget,
            fitting=None if self.fitting is None else tracer_line(self.fitting),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        fields: dict[str, Any] = as_json(self.document())
        return fields


def _is_rare(row: PlannedTensors, policy: Policy) -> bool:
    """Whether only some of the recorded steps have these tensors."""
    return row.kind == "probe_gradients" and policy.probe_gradients_every != 1


def _rows(policy: Policy, recorded: int) -> int:
    """Return how many of so many recorded steps have gradients of the probe."""
    found, row = 0, policy.next_probe_gradients(0)
    while row < recorded:
        found, row = found + 1, policy.next_probe_gradients(row + 1)
    return found


def tracer_line(policy: Policy, path: str = "run.zarr") -> str:
    """Return the Python expression that makes a tracer with `policy`.

    Examples
    --------
    >>> from steptrace_schema.format.policy import Policy
    >>> tracer_line(Policy(every=4, kinds=("weights",)))
    "Tracer('run.zarr', kinds=('weights',), every=4)"
    >>> tracer_line(Policy(every="auto"))
    "Tracer('run.zarr', every='auto')"
    """
    fields = {name: getattr(policy, name) for name in policy.model_dump(exclude_defaults=True)}
    if policy.max_slowdown is not None and policy.every == 1:
        fields = {"every": "auto", **fields}
        if policy.max_slowdown == MAX_SLOWDOWN:
            del fields["max_slowdown"]
    return f"Tracer({', '.join([repr(path), *(f'{k}={v!r}' for k, v in fields.items())])})"
