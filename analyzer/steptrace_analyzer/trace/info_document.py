"""What ``steptrace info --json`` prints."""

# Annotations are evaluated: pydantic makes the JSON, and its schema, of them.

import dataclasses
from typing import Any

from steptrace_schema.format.attributes import (
    Event,
    FinalWeights,
    Incident,
    Interval,
    Layer,
    Missing,
    Model,
    Optimizer,
    Phase,
    Proof,
    TargetLoss,
    Way,
)
from steptrace_schema.format.policy import Policy
from steptrace_schema.names import Kind, Status
from steptrace_schema.validate.coverage import Coverage


@dataclasses.dataclass(frozen=True)
class Ends:
    """A number at the first and at the last recorded step."""

    first: float
    last: float


@dataclasses.dataclass(frozen=True)
class KindDocument:
    """What a trace holds of one kind of data."""

    kind: str
    tensors: int
    steps: str
    """Written compactly: ``"0-3, 7"``."""
    step_count: int
    raw_bytes: int
    stored_bytes: int | None
    """None where the kind is derived on reading."""
    ratio: float | None
    """Stored bytes over raw bytes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TraceAttributesDocument:
    """Root attributes, as the specification describes them."""

    run_id: str
    version: str
    status: Status
    status_reason: str | None
    created: str
    finished: str | None
    producer: str
    model: Model | None
    layers: tuple[Layer, ...]
    optimizer: Optimizer | None
    losses: tuple[TargetLoss, ...]
    phases: tuple[Phase, ...]
    intervals: tuple[Interval, ...]
    policy: Policy
    environment: dict[str, Any]
    missing: tuple[Missing, ...]
    events: tuple[Event, ...]
    capture: dict[Kind, Way]
    proofs: tuple[Proof, ...]
    incidents: tuple[Incident, ...]
    final: FinalWeights | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class InfoDocument(TraceAttributesDocument):
    """A description of a trace."""

    path: str
    loss_function: str | None
    loss: Ends | None
    validation: dict[str, Ends]
    kinds: tuple[KindDocument, ...]
    stored_bytes: int
    journal_bytes: int
    coverage: tuple[Coverage, ...]
