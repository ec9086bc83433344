"""``steptrace plan``: what tracing the first ``fit`` of an unmodified script will cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steptrace_schema.errors import TraceError
from steptrace_tracer.planning.first_batch import FirstBatch
from steptrace_tracer.scripts.every_fit import every_fit

if TYPE_CHECKING:
    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.planning.plan import Plan
    from steptrace_tracer.scripts.script import Script


def plan_script(
    script: Script,
    policy: Policy,
    *,
    steps: int | None = None,
    budget: int | None = None,
) -> Plan:
    """Run a script up to the first step of its first ``fit``, and plan that one.

    Parameters
    ----------
    script
        The program. It is stopped at the first step of its first ``fit``.
    policy
        What to record.
    steps
        Length of the run; by default as many as the ``fit`` says.
    budget
        The most bytes that the trace may take.

    Raises
    ------
    TraceError
        If it calls no ``fit``, ends before, or does not say how long it trains.
    """

    def added(present: list[Any]) -> list[Any]:
        # TensorFlow is imported by the script, at the moment and in the environment it chooses.
        from steptrace_tracer.planning.stop_at_first_batch import StopAtFirstBatch

        return [StopAtFirstBatch()]

    try:
        with every_fit(added):
            status = script.run()
    except FirstBatch as found:
        whole = found.steps if steps is None else steps
        if whole is None and budget is not None:
            msg = f"{script.name} does not say how many steps it trains; give --steps"
            raise TraceError(msg) from None
        from steptrace_tracer.planning.measure import measure

        return measure(
            found.model,
            found.batch,
            policy,
            steps=whole,
            steps_per_epoch=found.steps_per_epoch,
            budget=budget,
            is_last=True,
        )
    msg = f"{script.name} ended with exit status {status} before a fit of a Keras model"
    raise TraceError(msg)
