"""How a recording is made, as the user asked for it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from steptrace_schema.format.attributes import Worker
    from steptrace_schema.format.policy import Policy
    from steptrace_schema.storage.location import Location
    from steptrace_tracer.capture.proven_step import Capture

OnError = Literal["warn", "raise"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a recording is made, as the user asked for it.

    Attributes
    ----------
    path
        Where the trace goes.
    policy
        What is recorded.
    probe
        Inputs of the probe; None for the first samples of the first batch.
    on_error
        What a failure of the tracer does to the training.
    progress
        Whether to show progress and a summary at the end.
    journal_limit
        Bytes that may wait on local disk.
    resume
        Whether to resume a trace that is there.
    worker
        Which process of a distributed job this is, if it is one.
    capture
        How steps are captured.
    sample_ids
        Returns the ids of a batch's samples, from the arguments of the step.
    incidents, incident_bytes
        How many steps at which something breaks are kept as a whole, and the most bytes of these.
    """

    path: Location
    policy: Policy
    probe: Any
    on_error: OnError
    progress: bool
    journal_limit: int
    resume: bool
    worker: Worker | None
    capture: Capture
    sample_ids: Callable[..., Any] | None
    incidents: int
    incident_bytes: int
