"""What ``steptrace plan --json`` prints."""

# Annotations are evaluated: pydantic makes the JSON, and its schema, of them.

import dataclasses

from steptrace_schema.format.policy import Policy


@dataclasses.dataclass(frozen=True)
class PlannedTensors:
    """What one layer takes in one kind.

    Attributes
    ----------
    kind, layer
        The kind, and the path of the layer; ``""`` for what belongs to no layer.
    tensors
        How many arrays.
    step_bytes
        Bytes that a recorded step takes, before encoding.
    stored_bytes
        The same in the store, by what the first steps took there.
    """

    kind: str
    layer: str
    tensors: int
    step_bytes: int
    stored_bytes: float = 0.0


@dataclasses.dataclass(frozen=True)
class PlanDocument:
    """What a trace will cost; bytes are before encoding where not said, times in seconds."""

    policy: Policy
    tensors: tuple[PlannedTensors, ...]
    step_bytes: int
    steps: int | None
    run_bytes: int | None
    stored_bytes: int | None
    """Bytes of the whole trace on disk, about."""
    untraced_seconds: float
    traced_seconds: float
    slow_down: float
    every: int
    """The interval at which recording slows the training down by no more than `max_slowdown`."""
    max_slowdown: float
    """That of the policy; where it has none, that of ``every="auto"``."""
    budget: int | None
    fitting: str | None
    """The Python expression of a tracer that takes no more than the budget."""
