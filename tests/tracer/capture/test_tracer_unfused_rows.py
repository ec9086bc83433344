"""Rows of a tensor are taken without a further use of what TensorFlow computes together."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf

from steptrace_tracer.capture.unfused_rows import FirstRows

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = 2
NUMBERS = np.random.default_rng(0)
X = NUMBERS.normal(size=(6, 4)).astype(np.float32)
A, B = (NUMBERS.normal(size=4).astype(np.float32) for _ in range(2))
KEPT = NUMBERS.normal(size=(1, 4)).astype(np.float32)
REGROUPED = ("Add", "AddV2", "AddN", "Mul")
TOGETHER = {
    *((one, other) for one in REGROUPED for other in REGROUPED),
    *(("MatMul", "BiasAdd"), ("BiasAdd", "Relu")),
}
"""Types of operations that TensorFlow computes together, where one alone uses the other."""


def normalised_residual(x: Any) -> list[Any]:
    """Two branches of products and sums, as of batch normalisation, and their sum."""
    scaled = x * A
    first = scaled + B
    second = tf.tanh(x) * B + A
    return [scaled, first, second, first + second, tf.nn.relu(first + second)]


def sums_of_sums(x: Any) -> list[Any]:
    """What a tape adds up where several operations use a tensor."""
    inner = tf.add_n([x, tf.tanh(x), tf.sin(x)])
    return [inner, tf.add_n([inner, x * x]), tf.add_n([x, x]) * KEPT]


def used_twice(x: Any) -> list[Any]:
    """A sum that two operations use: nothing is computed together with it."""
    total = x + B
    return [total, total + A, tf.tanh(total)]


def with_a_shape(x: Any) -> list[Any]:
    """A sum whose shape is asked for, as its gradient does."""
    total = x + B
    tf.shape(total)
    return [total, total + A]


def of_a_contraction(x: Any) -> list[Any]:
    product = tf.linalg.matmul(x, tf.constant(np.outer(A, B)))
    biased = tf.nn.bias_add(product, B)
    return [product, biased, tf.nn.relu(biased)]


def _uses(tensor: Any) -> list[Any]:
    """Return what computes with a tensor, and does not only ask for its shape."""
    return [use for use in tensor.consumers() if use.type != "Shape"]


@pytest.mark.parametrize("rows", [ROWS, None])
@pytest.mark.parametrize(
    "program",
    [normalised_residual, sums_of_sums, used_twice, with_a_shape, of_a_contraction],
)
def test_rows_are_those_of_the_tensors_and_what_is_computed_together_stays_so(
    program: Callable[[Any], list[Any]], rows: int | None
) -> None:
    kept_apart: list[str] = []

    @tf.function(input_signature=[tf.TensorSpec((None, 4))])  # type: ignore[untyped-decorator]
    def step(x: Any) -> tuple[list[Any], list[Any], list[Any]]:
        tensors = program(x)
        tf.tanh(tensors[-1])  # what the training does with it
        operations = tf.compat.v1.get_default_graph().get_operations()
        uses = {t.ref(): _uses(t) for o in operations for t in o.outputs}
        first_rows = FirstRows(rows)
        counts = [first_rows.count(tensor) for tensor in tensors]
        taken = [first_rows.of(tensor) for tensor in tensors]
        for reference, before in uses.items():
            tensor, kinds = reference.deref(), [use.type for use in before]
            if len(before) == 1 and (tensor.op.type, *kinds) in TOGETHER:
                assert [use.name for use in _uses(tensor)] == [before[0].name]
                kept_apart.append(tensor.op.type)
        return tensors, taken, counts

    tensors, taken, counts = step(X)
    assert bool(kept_apart) == (program is not used_twice)
    for tensor, found, count in zip(tensors, taken, counts, strict=True):
        np.testing.assert_allclose(found, tensor[:rows], rtol=1e-6, atol=1e-6)
        assert int(count) == len(X)


def test_rows_of_an_eager_tensor_are_its_own() -> None:
    first_rows = FirstRows(ROWS)
    assert first_rows.of(tf.constant(X)).numpy().tobytes() == X[:ROWS].tobytes()
    assert first_rows.of(tf.constant(2.0)).numpy() == 2
    assert int(first_rows.count(tf.constant(X))) == len(X)


def test_sums_of_a_tensor_without_a_known_rank_are_not_computed_again() -> None:
    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[tf.TensorSpec((None, 4)), tf.TensorSpec(None), tf.TensorSpec((4, 4))]
    )
    def step(x: Any, unknown: Any, kernel: Any) -> list[Any]:
        total = tf.ensure_shape(unknown, None) + x
        total.set_shape([None, 4])
        tensors = [total, tf.add_n([x, unknown, x]), tf.linalg.matmul(unknown, kernel)]
        tf.nn.relu(tensors[-1])
        first_rows = FirstRows(ROWS)
        for tensor in tensors[:-1]:
            tf.tanh(tensor * A)
        return [(tensor, first_rows.of(tensor), first_rows.count(tensor)) for tensor in tensors]

    for tensor, found, count in step(X, X + 1, np.eye(4, dtype=np.float32)):
        np.testing.assert_array_equal(found, tensor[:ROWS])
        assert int(count) == len(X)


def test_rows_are_counted_where_one_is_added_to_each() -> None:
    rows = tf.TensorSpec((None, 4))

    @tf.function(input_signature=[rows, rows])  # type: ignore[untyped-decorator]
    def step(one: Any, x: Any) -> Any:
        total = one + x
        tf.tanh(total * A)
        first_rows = FirstRows(ROWS)
        return total, first_rows.of(total), first_rows.count(total)

    total, found, count = step(KEPT, X)
    np.testing.assert_array_equal(found, total[:ROWS])
    assert int(count) == len(X)


def test_a_chain_of_sums_may_be_longer_than_python_calls_itself() -> None:
    length = sys.getrecursionlimit()

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[tf.TensorSpec((None, 4))], autograph=False
    )
    def step(x: Any) -> Any:
        for _ in range(length):
            x += A
        tf.tanh(x * B)
        first_rows = FirstRows(ROWS)
        return x, first_rows.of(x), first_rows.count(x)

    total, found, count = step(X)
    np.testing.assert_allclose(found, total[:ROWS], rtol=1e-4)
    assert int(count) == len(X)
