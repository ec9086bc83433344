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
from steptrace_tracer.capture.taps import current_graph
from steptrace_tracer.keras_private import raw_operation, users
from steptrace_tracer.private_names import (
    BIASES,
    CONTRACTIONS,
    FUSED_WITH,
    FUSED_WITH_BIASED,
    REGROUPED,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Set


class FirstRows:
    """Takes the first rows of tensors, eager or of one graph in which all is there that uses them.

    Parameters
    ----------
    rows
        How many; all if None.
    """

    def __init__(self, rows: int | None) -> None:
        self._rows = rows
        self._found: dict[str, Any] = {}
        """First rows of tensors, by the names of these."""
        self._counts: dict[str, Any] = {}
        self._own: set[str] = set()
        """Names of operations that the training has not."""

    def of(self, tensor: Any) -> Any:
        """Return the first rows of `tensor`, dims (row, ...); a scalar as it is.

        Raises
        ------
        MissingNameError
            If TensorFlow cannot compute one of its operations again.
        """
        if tensor.shape.rank == 0:
            return tensor
        if not _is_here(tensor):
            return tensor[: self._rows]
        for each in self._in_order(tensor, self._found):
            rows = self._again(each.op) if self._parts(each) else each[: self._rows]
            self._own.add(rows.op.name)
            self._found[each.name] = rows
        return self._found[tensor.name]

    def count(self, tensor: Any) -> Any:
        """Return how many rows `tensor` has, as a scalar tensor."""
        if not _is_here(tensor):
            return tf.shape(tensor)[0]
        for each in self._in_order(tensor, self._counts):
            counts = list(
                {part.name: self._counts[part.name] for part in self._parts(each)}.values()
            )
            if not counts:
                shape = tf.shape(each)
                self._own.add(shape.op.name)
                counts = [shape[0]]
            # One row, which no shape need say, is added to each of many.
            self._counts[each.name] = counts[0] if len(counts) == 1 else tf.reduce_max(counts)
        return self._counts[tensor.name]

    def _in_order(self, tensor: Any, known: Mapping[str, Any]) -> Iterator[Any]:
        """Yield what is not `known` of a tensor and of its parts, theirs included, parts first."""
        waiting = [tensor]
        while waiting:
            last = waiting[-1]
            parts = [] if last.name in known else self._parts(last)
            if lacking := [part for part in parts if part.name not in known]:
                waiting += lacking
                continue
            waiting.pop()
            if last.name not in known:
                yield last

    def _parts(self, tensor: Any) -> list[Any]:
        """Return what has the rows of a tensor that is computed again; nothing for any other."""
        operation = tensor.op
        if not tensor.shape.rank or any(value.shape.rank is None for value in operation.inputs):
            return []  # the rows of an input may be none of the tensor's
        with_rows = [
            value
            for number, value in enumerate(operation.inputs)
            if _has_rows(operation, number, value)
        ]
        return with_rows if with_rows and self._may_be_fused(tensor) else []

    def _again(self, operation: Any) -> Any:
        inputs = [
            self._found[value.name] if _has_rows(operation, number, value) else value
            for number, value in enumerate(operation.inputs)
        ]
        return _recompute(operation, inputs)

    def _may_be_fused(self, tensor: Any) -> bool:
        operation, found = tensor.op, users(tensor)
        if found is None:
            return _is_fused(operation, set(FUSED_WITH))
        used_by = {
            use.name: use.type
            for use in found
            if use.name not in self._own and use.type != "Shape"  # which is known without it
        }
        return _is_regrouped(operation, [*used_by.values()]) or _is_fused(
            operation, {*used_by.values()}
        )


def _is_here(tensor: Any) -> bool:
    """Whether a tensor is of the graph that is being built, in which names tell tensors apart."""
    graph = current_graph()
    return graph is not None and tensor.graph is graph


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
