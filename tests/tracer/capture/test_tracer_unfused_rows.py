"""Rows of a tensor are taken without a further use of what TensorFlow computes together."""

from __future__ import annotations

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


def of_a_contraction(x: Any) -> list[Any]:
    product = tf.linalg.matmul(x, tf.constant(np.outer(A, B)))
    biased = tf.nn.bias_add(product, B)
    return [product, biased, tf.nn.relu(biased)]


@pytest.mark.parametrize("rows", [ROWS, None])
@pytest.mark.parametrize(
    "program", [normalised_residual, sums_of_sums, used_twice, of_a_contraction]
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
        uses = {t.ref(): t.consumers() for o in operations for t in o.outputs}
        first_rows = FirstRows(rows)
        counts = [first_rows.count(tensor) for tensor in tensors]
        taken = [first_rows.of(tensor) for tensor in tensors]
        for reference, before in uses.items():
            tensor, kinds = reference.deref(), [use.type for use in before]
            if len(before) == 1 and (tensor.op.type, *kinds) in TOGETHER:
                assert [use.name for use in tensor.consumers()] == [before[0].name]
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
