"""The first rows of tensors of a graph, without a further use of one where that would matter.

TensorFlow computes a contraction, its bias and what follows in one go, and sums and products of
sums and products in another order, where nothing else uses what is between them (its remapper, with
oneDNN, and its arithmetic optimizer). A tap is such a use: the operations would be computed one by
one, and the last bits of the training differ. Such a tensor is therefore computed again, for the
few rows that are wanted, from what the same operations begin with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steptrace_tracer._tensorflow import tf
from steptrace_tracer.keras_private import raw_operation, users
from steptrace_tracer.private_names import (
    BIASES,
    CONTRACTIONS,
    FUSED_WITH,
    FUSED_WITH_BIASED,
    REGROUPED,
)

if TYPE_CHECKING:
    from collections.abc import Set


class FirstRows:
    """Takes the first rows of tensors, eager or of one graph in which all is there that uses them.

    Parameters
    ----------
    rows
        How many; all if None.
    """

    def __init__(self, rows: int | None) -> None:
        self._rows = rows
        self._found: dict[int, tuple[Any, Any]] = {}
        self._own: set[str] = set()
        """Names of operations that the training has not."""

    def of(self, tensor: Any) -> Any:
        """Return the first rows of `tensor`, dims (row, ...); a scalar as it is.

        Raises
        ------
        MissingNameError
            If TensorFlow cannot compute one of its operations again.
        """
        if not tensor.shape.rank:
            return tensor
        if tf.executing_eagerly():
            return tensor[: self._rows]
        if id(tensor) not in self._found:
            rows = self._again(tensor.op) if self._may_be_fused(tensor) else tensor[: self._rows]
            self._own.add(rows.op.name)
            self._found[id(tensor)] = tensor, rows
        return self._found[id(tensor)][1]

    def count(self, tensor: Any) -> Any:
        """Return how many rows `tensor` has, as a scalar tensor."""
        while not tf.executing_eagerly() and self._may_be_fused(tensor):
            tensor = next(
                value
                for number, value in enumerate(tensor.op.inputs)
                if _has_rows(tensor.op, number, value)
            )
        shape = tf.shape(tensor)
        if not tf.executing_eagerly():
            self._own.add(shape.op.name)
        return shape[0]

    def _again(self, operation: Any) -> Any:
        inputs = [
            self.of(value) if _has_rows(operation, number, value) else value
            for number, value in enumerate(operation.inputs)
        ]
        return _recompute(operation, inputs)

    def _may_be_fused(self, tensor: Any) -> bool:
        operation = tensor.op
        if not any(_has_rows(operation, *numbered) for numbered in enumerate(operation.inputs)):
            return False
        found = users(tensor)
        if found is None:
            return _is_fused(operation, set(FUSED_WITH))
        used_by = {use.name: use.type for use in found if use.name not in self._own}
        return _is_regrouped(operation, [*used_by.values()]) or _is_fused(
            operation, {*used_by.values()}
        )


def _is_regrouped(operation: Any, used_by: list[str]) -> bool:
    return operation.type in REGROUPED and len(used_by) == 1 and used_by[0] in REGROUPED


def _is_fused(operation: Any, used_by: Set[str]) -> bool:
    if operation.type in CONTRACTIONS:
        return not used_by.isdisjoint(FUSED_WITH)
    if operation.type not in BIASES or not any(map(_is_contraction, operation.inputs)):
        return False
    return not used_by.isdisjoint((*FUSED_WITH, *FUSED_WITH_BIASED))


def _is_contraction(tensor: Any) -> bool:
    """Whether a tensor is what a contraction gives, with a bias or without."""
    operation = tensor.op
    return operation.type in CONTRACTIONS or (
        operation.type == "BiasAdd" and operation.inputs[0].op.type in CONTRACTIONS
    )


def _has_rows(operation: Any, number: int, value: Any) -> bool:
    """Whether the rows of what can be computed again are those of an input, which is no weight."""
    if operation.type in REGROUPED:
        return bool(value.shape.rank == operation.outputs[0].shape.rank and value.shape[0] != 1)
    if operation.type == "MatMul" and operation.get_attr("transpose_a"):
        return False
    return number == 0 and operation.type in (*CONTRACTIONS, *BIASES)


def _recompute(operation: Any, inputs: list[Any]) -> Any:
    """Return the result of the same operation for other inputs."""
    definition = operation.op_def
    settings = {
        attribute.name: operation.get_attr(attribute.name)
        for attribute in definition.attr
        if attribute.name not in _inferred(definition)
    }
    names = [argument.name for argument in definition.input_arg]
    given = [inputs] if definition.input_arg[0].number_attr else inputs
    return raw_operation(operation.type)(**dict(zip(names, given, strict=True)), **settings)


def _inferred(definition: Any) -> set[str]:
    """Return the attributes of an operation that follow from its inputs."""
    arguments = definition.input_arg
    return {name for argument in arguments for name in (argument.type_attr, argument.number_attr)}
