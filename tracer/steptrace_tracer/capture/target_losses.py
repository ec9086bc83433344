"""Which compiled loss a step computes of which target."""

from __future__ import annotations

import inspect
import math
import numbers
from typing import TYPE_CHECKING, Any

from steptrace_schema.format.attributes import TargetLoss
from steptrace_schema.names import Y
from steptrace_tracer.capture.json_safe import json_safe
from steptrace_tracer.capture.names import joined, leaves
from steptrace_tracer.keras_private import is_keras_own, loss_settings, weighted_losses
from steptrace_tracer.private_names import MissingNameError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steptrace_tracer.capture.program import Batch


def target_losses(
    model: Any, batch: Batch, called: Sequence[tuple[Any, Any]]
) -> tuple[TargetLoss, ...]:
    """Return the losses of a step with their targets; none where a target or a weight is unknown.

    Parameters
    ----------
    model
        Whose compiled losses the step is to compute.
    batch
        What the step is trained on.
    called
        The losses that it did compute, each with what it was given for the target, in order.
    """
    if not called:
        return ()
    try:
        compiled = weighted_losses(model)
    except MissingNameError:
        return ()
    if [id(loss) for loss, _ in compiled] != [id(loss) for loss, _ in called]:
        return ()
    targets = {id(tensor): joined(Y, name) for name, tensor in leaves(batch.y)}
    found = []
    for (loss, weight), (_, target) in zip(compiled, called, strict=True):
        factor = 1.0 if weight is None else weight  # a variable may change
        if id(target) not in targets or not isinstance(factor, numbers.Real):
            return ()
        if not math.isfinite(factor):
            return ()
        found.append(_described(loss, targets[id(target)], float(factor)))
    return tuple(found)


def _described(loss: Any, target: str, weight: float) -> TargetLoss:
    config = {"reduction": str(getattr(loss, "reduction", None))}
    function, settings = getattr(loss, "fn", None), loss_settings(loss)
    known = None
    if settings is not None and inspect.isfunction(function) and is_keras_own(function):
        if is_keras_own(type(loss).call):
            known = function.__name__
            parameters = inspect.signature(function).parameters.values()
            usual = {p.name: p.default for p in parameters if p.default is not p.empty}
            config = {**usual, **settings, **config}
    return TargetLoss(
        target=target,
        name=str(getattr(loss, "name", None) or type(loss).__name__),
        function=known,
        config=json_safe(config),
        weight=weight,
    )
