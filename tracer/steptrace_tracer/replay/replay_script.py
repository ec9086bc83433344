"""``steptrace replay``: one recorded step, run again in the script that it was recorded in."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steptrace_schema.errors import TraceError
from steptrace_tracer.replay.recorded_step import RecordedStep
from steptrace_tracer.replay.replay import Replay, Replayed
from steptrace_tracer.scripts.every_fit import every_fit
from steptrace_tracer.session.replaying import REPLAYER, Replayer

if TYPE_CHECKING:
    from steptrace_schema.storage.location import Location
    from steptrace_tracer.scripts.script import Script


def replay_script(
    script: Script, path: Location, step: int, *, fit: int = 1, check_numerics: bool = False
) -> Replay:
    """Run a script up to its training, and there the recorded step in place of the first one.

    Weights, optimizer, states of random layers and the batch are those of the record. The script
    ends with that step. Nothing is written into any trace.

    Parameters
    ----------
    script
        The program that the trace was recorded with.
    path
        The trace.
    step
        A step that is kept as a whole, or of which the policy kept everything.
    fit
        Which of the script's fits, or wrapped steps, the trace is of, counted from 1. Earlier ones
        train as they do without the tracer.
    check_numerics
        Run with ``tf.debugging.enable_check_numerics``, which stops at the first operation that
        gives a number that is not finite. Bits are not compared then.

    Raises
    ------
    StepNotRecordedError
        If the record lacks what running the step again needs.
    TraceError
        If the script does not train, or trains with other arguments.

    Examples
    --------
    >>> replay_script(Script("train.py"), Path("run.zarr"), 60).is_same  # doctest: +SKIP
    True
    """
    script.check()
    recorded = RecordedStep.read(path, step)

    def added(present: list[Any]) -> list[Any]:
        # TensorFlow is imported by the script, at the moment and in the environment it chooses.
        from steptrace_tracer.session.tracer import Tracer

        if any(isinstance(callback, Tracer) for callback in present):
            return []
        return [Tracer(path)]

    with tempfile.TemporaryDirectory(prefix="steptrace-replay-") as folder:

        def made() -> Replayer:
            from steptrace_tracer.replay.step_replayer import StepReplayer

            return StepReplayer(
                recorded, fit=fit, check_numerics=check_numerics, folder=Path(folder)
            )

        try:
            with REPLAYER.using(made), every_fit(added):
                status = script.run()
        except Replayed as found:
            return found.replay
    msg = (
        f"{script.name} ended with exit status {status} before fit {fit} of a Keras model, or step "
        "that Tracer.wrap wraps, did a step"
    )
    raise TraceError(msg)
