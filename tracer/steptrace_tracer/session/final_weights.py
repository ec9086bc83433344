"""The weights that a model ends with, where something replaced those that the last step left."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_schema.format.attributes import FinalWeights
from steptrace_tracer.record.pending_step import KeptFinal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.capture.program import Program
    from steptrace_tracer.capture.traced_step import TracedStep

_SAME: Final = "the model ends with the weights that the last step left"
_AVERAGES: Final = "the optimizer's moving averages of the weights took their place"
_RESTORED: Final = "{} put back the weights of its best epoch, number {} counted from 0"
_OTHER: Final = "something else set them, such as a callback or the program itself"
_DESCRIBED: Final = "only statistics of the weights are recorded, as the policy asks"


def final_weights(
    last: Mapping[str, Any],
    traced: TracedStep,
    step: int,
    callbacks: Sequence[Any],
    policy: Policy,
) -> KeptFinal:
    """Return the present weights that are not those which the last step left, and why, if known.

    Parameters
    ----------
    last
        ``weights/path`` to tensor, as the last step left them.
    traced
        The step, for its models and optimizers.
    step
        Number of the step that would follow.
    callbacks
        The callbacks of the fit, one of which may have put weights back.
    policy
        Whether the weights are recorded, or only described.
    """
    now = traced.current_weights()
    changed = {
        key: (np.asarray(last[key]), np.asarray(now[key]))
        for key in last
        if key in now and _bytes(last[key]) != _bytes(now[key])
    }
    described = policy.only_describes("weights")
    cause, reason = _why(changed, traced.program, callbacks, described=described)
    arrays = {} if described else {key: after for key, (_, after) in changed.items()}
    paths = tuple(key.partition("/")[2] for key in arrays)
    said = FinalWeights(
        step=step,
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        cause=cause,
        reason=reason,
        compared=len(last),
        changed=len(changed),
        arrays=paths,
        not_kept=_DESCRIBED if described and changed else None,
        nbytes=sum(values.nbytes for values in arrays.values()),
    )
    return KeptFinal(said, arrays)


def _why(
    changed: Mapping[str, tuple[Any, Any]],
    program: Program,
    callbacks: Sequence[Any],
    *,
    described: bool,
) -> tuple[str, str]:
    """Return the cause and a sentence: what the values themselves show, no more."""
    if not changed:
        return "none", _SAME
    for callback in callbacks:
        if _holds_present_weights(callback, program.models):
            epoch = getattr(callback, "best_epoch", None)
            name = type(callback).__name__
            return "restored", _RESTORED.format(name, "unknown" if epoch is None else epoch)
    if not described and program.strategy is None:
        averages = _averages(program.optimizers)
        # Taken over, or exchanged with the weights.
        for side in (1, 0):
            if all(_bytes(values[side]) in averages for values in changed.values()):
                return "averages", _AVERAGES
    return "other", _OTHER


def _holds_present_weights(callback: Any, models: Sequence[Any]) -> bool:
    """Whether a callback keeps the weights of an epoch that the one model has now."""
    best = getattr(callback, "best_weights", None)
    if not isinstance(best, (list, tuple)) or len(models) != 1:
        return False
    present = models[0].get_weights()
    return len(best) == len(present) and all(
        _bytes(one) == _bytes(other) for one, other in zip(best, present, strict=True)
    )


def _averages(optimizers: Sequence[Any]) -> set[bytes]:
    """Return the averages that optimizers keep of weights, as Keras names them."""
    return {
        _bytes(variable)
        for optimizer in optimizers
        for variable in optimizer.variables
        if str(variable.name).endswith("average")
    }


def _bytes(values: Any) -> bytes:
    return np.asarray(values).tobytes()
