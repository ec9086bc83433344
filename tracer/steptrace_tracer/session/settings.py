"""How a recording is made, as the user asked for it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from steptrace_tracer.capture.proven_step import Capture

if TYPE_CHECKING:
    from collections.abc import Callable

    from steptrace_schema.format.attributes import Worker
    from steptrace_schema.format.policy import Policy
    from steptrace_schema.storage.location import Location
    from steptrace_tracer.session.live_watch import LiveWatch
    from steptrace_tracer.session.recorded_steps import RecordedSteps

JOURNAL_LIMIT: Final = 4 * 2**30
"""Bytes that the journal may hold before training waits for the recorder, by default."""

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
    recorded_steps
        Which steps are recorded.
    live
        What is reported to the training while it runs.
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
    recorded_steps: RecordedSteps
    live: LiveWatch

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises
        ------
        ValueError
            If a setting is none of its values, or needs another one.
        """
        if self.capture not in get_args(Capture):
            msg = f"capture is {self.capture!r}; it must be 'auto', 'inside' or 'beside'"
            raise ValueError(msg)
        if self.on_error not in get_args(OnError):
            msg = f"on_error is {self.on_error!r}; it must be 'warn' or 'raise'"
            raise ValueError(msg)
        if self.policy.picks_samples and self.sample_ids is None:
            msg = "the policy selects samples by id; pass sample_ids to get the ids of a batch"
            raise ValueError(msg)
        if self.worker is not None and self.live.stops:
            msg = (
                "on_finding is 'stop', but processes that train together would not all stop at "
                "the same step; use 'warn' or 'mark'"
            )
            raise ValueError(msg)
        if self.worker is not None and self.policy.max_slowdown is not None:
            msg = (
                "every is 'auto' or max_slowdown is set, but processes that train together would "
                "record different steps, each by its own times; pass a number of steps as every"
            )
            raise ValueError(msg)
