"""The first rows of a tensor of a graph, without a further use of it where that would matter.

TensorFlow computes a contraction, its bias and what follows in one go, where nothing else uses what
is between them (its remapper, with oneDNN). A tap is such a use: the operations would be computed
one by one, and the last bits of the training differ. Such a tensor is therefore computed again,
for the few rows that are wanted, from what the same operations begin with.
"""

from __future__ import annotations

from typing import Any

from steptrace_tracer._tensorflow import tf
from steptrace_tracer.keras_private import is_used_by_any, raw_operation
from steptrace_tracer.private_names import CONTRACTIONS, FUSED, FUSED_WITH


def first_rows(tensor: Any, rows: int | None) -> Any:
    """Return the first `rows` rows of `tensor`, all if None; a scalar as it is.

    Parameters
    ----------
    tensor
        Dims (row, ...), eager or of a graph in which all is there that uses it.
    rows
        How many.

    Raises
    ------
    MissingNameError
        If TensorFlow cannot compute one of its operations again.
    """
    if not tensor.shape.rank:
        return tensor
    if not _may_be_fused(tensor):
        return tensor[:rows]
    operation = tensor.op
    inputs = [
        first_rows(value, rows) if _has_rows(operation, number, value) else value
        for number, value in enumerate(operation.inputs)
    ]
    return _recompute(operation, inputs)


def row_count(tensor: Any) -> Any:
    """Return how many rows `tensor` has, as a scalar tensor."""
    while _may_be_fused(tensor):
        tensor = tensor.op.inputs[0]
    return tf.shape(tensor)[0]


def _may_be_fused(tensor: Any) -> bool:
    if tf.executing_eagerly() or tensor.op.type not in FUSED:
        return False
    if tensor.op.type not in CONTRACTIONS and not _comes_from_contraction(tensor.op):
        return False
    if tensor.op.type == "MatMul" and tensor.op.get_attr("transpose_a"):
        return False  # its rows are no rows of what it begins with
    return is_used_by_any(tensor, FUSED_WITH)


def _comes_from_contraction(operation: Any) -> bool:
    """Whether the operation adds to a contraction, with a bias or without."""
    return any(
        value.op.type in CONTRACTIONS
        or (value.op.type == "BiasAdd" and value.op.inputs[0].op.type in CONTRACTIONS)
        for value in operation.inputs
    )


def _has_rows(operation: Any, number: int, value: Any) -> bool:
    """Whether the operation's input has the rows of its result, and is no weight."""
    if operation.type in ("Add", "AddV2"):
        return bool(value.shape.rank == operation.outputs[0].shape.rank and value.shape[0] != 1)
    return number == 0


def _recompute(operation: Any, inputs: list[Any]) -> Any:
    """Return the result of the same operation for other inputs."""
    definition = operation.op_def
    inferred = {argument.type_attr for argument in definition.input_arg}
    names = [argument.name for argument in definition.input_arg]
    settings = {
        attribute.name: operation.get_attr(attribute.name)
        for attribute in definition.attr
        if attribute.name not in inferred
    }
    return raw_operation(operation.type)(**dict(zip(names, inputs, strict=True)), **settings)
