"""Rows of tensors, dense or not: how many there are, the first ones, and those of several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steptrace_tracer._tensorflow import tf

if TYPE_CHECKING:
    from collections.abc import Sequence


def count_rows(tensor: Any) -> Any:
    """Return how many rows a tensor has, as an int64 scalar; None where it has none."""
    if isinstance(tensor, tf.RaggedTensor):
        return tf.cast(tensor.nrows(), tf.int64)
    if isinstance(tensor, tf.SparseTensor):
        return tensor.dense_shape[0]
    is_dense = isinstance(tensor, tf.Tensor) and tensor.shape.rank != 0
    return tf.shape(tensor, tf.int64)[0] if is_dense else None


def first_rows(tensor: Any, count: int | None) -> Any:
    """Return the first rows of a tensor; all if `count` is None."""
    if count is None or not isinstance(tensor, tf.SparseTensor):
        return tensor[:count]
    shape = tensor.dense_shape
    size = tf.concat([tf.minimum(shape[:1], count), shape[1:]], 0)
    return tf.sparse.slice(tensor, tf.zeros_like(shape), size)


def joined_rows(parts: Sequence[Any]) -> Any:
    """Return the rows of several tensors of one kind, one after the other."""
    if isinstance(parts[0], tf.SparseTensor):
        return tf.sparse.concat(0, list(parts))
    return tf.concat(list(parts), 0)
