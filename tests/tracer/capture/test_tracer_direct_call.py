"""A compiled step is called by the program that its batch is known to need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from steptrace_tracer.capture.direct_call import DirectCall


class Counted:
    """A ``tf.function`` that counts how often TensorFlow searches for its program."""

    def __init__(self) -> None:
        self.searches = 0
        self._function = tf.function(self._sums, reduce_retracing=True, autograph=False)

    def __call__(self, *args: Any) -> Any:
        self.searches += 1
        return self._function(*args)

    def get_concrete_function(self, *args: Any) -> Any:
        return self._function.get_concrete_function(*args)

    @staticmethod
    def _sums(batch: Any) -> Any:
        leaves = tf.nest.flatten(batch, expand_composites=True)
        return [tf.reduce_sum(tf.cast(leaf, tf.float64)) for leaf in leaves]


def _sums(batch: Any) -> list[float]:
    leaves = tf.nest.flatten(batch, expand_composites=True)
    return [float(np.sum(np.asarray(leaf))) for leaf in leaves]


_ONE, _TWO = tf.constant([1.0, 2.0]), tf.constant([[3.0, 4.0]])


@pytest.mark.parametrize(
    "batch",
    [_ONE, (_ONE, _TWO), [_ONE, (_TWO,)], {"a": _ONE, "b": _TWO}, ({"b": _TWO, "a": _ONE}, _ONE)],
)
def test_a_batch_of_a_kind_that_was_there_is_not_searched_for(batch: Any) -> None:
    function = Counted()
    call = DirectCall(function)
    for factor in (1.0, 2.0, 3.0):
        present = tf.nest.map_structure(lambda leaf, by=factor: leaf * by, batch)
        assert [float(found) for found in call(present)] == _sums(present)
    assert function.searches == 1


def test_batches_of_different_kinds_have_programs_of_their_own() -> None:
    function = Counted()
    call = DirectCall(function)
    kinds = [
        (_ONE, _TWO),
        (_TWO, _ONE),
        [_ONE, _TWO],
        {"a": _ONE, "b": _TWO},
        {"a": _ONE, "c": _TWO},
        (_ONE, tf.constant([[3, 4]])),
        (_ONE[:1], _TWO),
    ]
    for batch in [*kinds, *kinds]:
        assert [float(found) for found in call(batch)] == _sums(batch)
    assert function.searches == len(kinds)


@pytest.mark.parametrize(
    "batch", [tf.ragged.constant([[1.0], [2.0, 3.0]]), (_ONE, 2), (np.ones(2), _TWO)]
)
def test_what_is_no_tensor_goes_through_the_search(batch: Any) -> None:
    function = Counted()
    call = DirectCall(function)
    for _ in range(3):
        call(batch)
    assert function.searches == 3


def test_functions_that_run_eagerly_do() -> None:
    function = Counted()
    call = DirectCall(function)
    call(_ONE)
    tf.config.run_functions_eagerly(True)
    try:
        assert [float(found) for found in call(_ONE)] == [3.0]
    finally:
        tf.config.run_functions_eagerly(False)
    assert function.searches == 2
