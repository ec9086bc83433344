"""The batch among the arguments of a step."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.names import leaves
from steptrace_tracer.capture.program import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence


def batch_of_arguments(
    arguments: Mapping[str, Any], input_names: Collection[str | None] = ()
) -> Batch:
    """Return the batch among the arguments of a step.

    The first argument that holds tensors, and not numbers alone, is ``x``, and a second one ``y``;
    so are the parts of a tuple of two or three. Of more arguments, or of a longer tuple, ``y`` is
    what is called ``label``, ``target`` or ``y``: actions and rewards are none. The rest are
    others. Of one mapping, what is called as the model's inputs are is ``x`` and the rest ``y``; or
    else what is called as targets are is ``y``.

    Parameters
    ----------
    arguments
        By their names.
    input_names
        Names of the model's inputs.

    Examples
    --------
    >>> import numpy as np
    >>> batch_of_arguments({"images": np.zeros(3), "answers": np.ones(3)}).y
    array([1., 1., 1.])
    >>> batch_of_arguments({"batch": {"image": np.zeros(3), "label": np.ones(3)}}).y
    array([1., 1., 1.])
    >>> found = batch_of_arguments(dict.fromkeys(("state", "action", "reward"), np.zeros(3)))
    >>> found.y, list(found.others)
    (None, ['action', 'reward'])
    """
    data = {name: value for name, value in arguments.items() if _holds_tensors(value)}
    if not data:
        return Batch()
    name, first = next(iter(data.items()))
    if isinstance(first, (tuple, list)) and len(first) > 1:
        named = getattr(first, "__match_args__", ())  # of a named tuple
        names = named if len(named) == len(first) else range(len(first))
        parts = dict(zip(map(str, names), first, strict=True))
        return _batch_of_parts(parts, {k: v for k, v in data.items() if k != name}, len(parts) < 4)
    if len(data) == 1 and isinstance(first, Mapping):
        return _batch_of_mapping(first, input_names)
    return _batch_of_parts(data, {}, len(data) == 2)


def _batch_of_parts(parts: Mapping[str, Any], more: Mapping[str, Any], has_target: bool) -> Batch:
    """Return the batch whose first part is the input; the second is the target if it has one."""
    x, *rest = parts
    named = (name for name in rest if has_target or _TARGETS.fullmatch(name.lower()))
    target = next(named, None)
    others = {name: parts[name] for name in rest if name != target}
    return Batch(parts[x], parts.get(target) if target else None, {**others, **more})


_TARGETS: Final = re.compile(r"(batch_)?y(_true|_batch)?|(.*_)?(labels?|targets?|targ?|tgt)")
"""Names of targets among arguments, or in a mapping."""


def _batch_of_mapping(data: Mapping[str, Any], input_names: Collection[str | None]) -> Batch:
    """Tell inputs from targets by the names of the model's inputs, or else by usual names."""
    inputs = set(input_names)
    if not inputs or not inputs < data.keys():  # a subclassed model has no names
        inputs = {name for name in data if not _TARGETS.fullmatch(str(name).lower())}
    x = {name: value for name, value in data.items() if name in inputs}
    y = {name: value for name, value in data.items() if name not in inputs}
    if not x or not y:
        return Batch(data)
    return Batch(*(next(iter(part.values())) if len(part) == 1 else part for part in (x, y)))


def batch_finder(models: tuple[Any, ...], names: Sequence[str] = ()) -> Callable[..., Batch]:
    """Return what finds the batch among the arguments of a step.

    Parameters
    ----------
    models
        What the step trains.
    names
        Of its parameters, as far as they are known.
    """
    inputs = {getattr(tensor, "name", None) for tensor in getattr(models[0], "inputs", None) or ()}

    def find(*args: Any, **kwargs: Any) -> Batch:
        known = dict(enumerate(names))
        arguments = {known.get(number, str(number)): value for number, value in enumerate(args)}
        return batch_of_arguments(arguments | kwargs, inputs)

    return find


def parameter_names(function: Any, owner: Any) -> tuple[str, ...]:
    """Return the names of the parameters of a function, or of a method of `owner`."""
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):
        return ()
    has_name = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind in has_name]
    return tuple(names if owner is None else names[1:])


def _holds_tensors(value: Any) -> bool:
    found = [leaf for _, leaf in leaves(value)]
    return any(map(_has_rows, found)) and all(
        isinstance(leaf, tf.distribute.DistributedValues)
        or (hasattr(leaf, "dtype") and hasattr(leaf, "shape"))
        for leaf in found
    )


def _has_rows(leaf: Any) -> bool:
    """Whether a leaf may be of a batch: a number, such as that of the step, is of none."""
    rank = getattr(getattr(leaf, "shape", None), "rank", getattr(leaf, "ndim", None))
    return rank != 0
