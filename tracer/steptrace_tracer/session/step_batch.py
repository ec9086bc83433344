"""The batch among the arguments of a step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.names import leaves
from steptrace_tracer.capture.program import Batch

if TYPE_CHECKING:
    from collections.abc import Collection


def batch_of_arguments(
    *args: Any, input_names: Collection[str | None] = (), **kwargs: Any
) -> Batch:
    """Return the batch among the arguments of a step.

    The first argument that holds tensors, and not numbers alone, is ``x``, or ``(x, y)`` where it
    is a tuple or list of two or more; otherwise the second one is ``y``. Of one mapping, what is
    called as the model's inputs are is ``x`` and the rest ``y``; or else what is called ``label``,
    ``target`` or ``y`` is ``y``.

    Examples
    --------
    >>> import numpy as np
    >>> batch_of_arguments(np.zeros(3), np.ones(3)).y
    array([1., 1., 1.])
    >>> batch_of_arguments({"image": np.zeros(3), "label": np.ones(3)}).y
    array([1., 1., 1.])
    """
    data = [value for value in (*args, *kwargs.values()) if _holds_tensors(value)]
    if not data:
        return Batch()
    if isinstance(data[0], (tuple, list)) and len(data[0]) > 1:
        return Batch(*data[0][:2])
    if len(data) == 1 and isinstance(data[0], Mapping):
        return _batch_of_mapping(data[0], input_names)
    return Batch(*data[:2])


_TARGETS: Final = re.compile(r"y|y_true|(.*_)?(labels?|targets?)")
"""Names of targets in a mapping."""


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


def batch_for(models: tuple[Any, ...], *args: Any, **kwargs: Any) -> Batch:
    """Return the batch among the arguments of a step that trains `models`."""
    names = {getattr(tensor, "name", None) for tensor in getattr(models[0], "inputs", None) or ()}
    return batch_of_arguments(*args, input_names=names, **kwargs)


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
