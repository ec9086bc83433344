"""It is found what a compiled function does with variables and tables, however passed on."""

from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf

from steptrace_tracer.capture.program import Program
from steptrace_tracer.capture.resource_uses import READING, ResourceUses
from steptrace_tracer.capture.state import StepState


def uses(python: Any, variable: tf.Variable) -> frozenset[str]:
    function = tf.function(python).get_concrete_function()
    return ResourceUses(function).of(variable.handle)


def test_a_variable_that_is_read_is_left_as_it_is() -> None:
    v = tf.Variable(tf.zeros((4, 2)))
    assert uses(lambda: tf.gather(v, [1]) + v[0], v) <= READING


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_an_assignment_is_found_in_functions_that_call_each_other(depth: int) -> None:
    v = tf.Variable(1.0)

    def assign() -> tf.Tensor:
        return v.assign_add(2.0)

    called = assign
    for _ in range(depth):
        called = tf.function(lambda inner=called: inner() + 1.0)
    assert "AssignAddVariableOp" in uses(called, v)


def test_an_assignment_is_found_in_one_branch_and_in_a_loop() -> None:
    v, w, z, n = (tf.Variable(1.0) for _ in range(4))
    i = tf.Variable(1)

    def step() -> tf.Tensor:
        tf.cond(w > 0.0, lambda: v.assign(3.0), lambda: v + 1.0)
        for _ in tf.range(3):
            z.assign_add(w)
        tf.switch_case(i.read_value(), [lambda: n.assign(1.0), lambda: w + 1.0])
        return w + 1.0

    function = tf.function(step).get_concrete_function()
    found = ResourceUses(function)
    changed = {id(v.handle), id(z.handle), id(n.handle)}
    resources = [tensor for tensor in function.captured_inputs if tensor.dtype == tf.resource]
    assert {id(tensor) for tensor in resources if not found.of(tensor) <= READING} == changed
    assert len(resources) == 5


def table() -> Any:
    return tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)


def state(python: Any) -> StepState:
    program: Any = Program.__new__(Program)
    object.__setattr__(program, "models", ())
    object.__setattr__(program, "optimizers", ())
    return StepState(tf.function(python).get_concrete_function(), program)


def test_a_table_that_is_only_looked_up_does_not_hinder() -> None:
    words, v = table(), tf.Variable(1.0)

    def step() -> Any:
        return v.assign_add(tf.cast(words.lookup(tf.constant("a")), tf.float32))

    assert state(step).obstacle is None


def test_a_table_that_is_filled_hinders() -> None:
    words = table()

    def step() -> None:
        words.insert(tf.constant("a"), tf.constant(2, tf.int64))

    found = state(step)
    assert found.obstacle == "it runs 'LookupTableInsertV2', which acts on more than variables"


def test_only_variables_that_are_changed_are_copied_and_put_back() -> None:
    still, moved = tf.Variable(5.0), tf.Variable(1.0)
    found = state(lambda: moved.assign_add(still))
    before = found.copy()
    assert [value.numpy() for value in before] == [1.0]
    moved.assign(7.0)
    found.put_back(before)
    assert (still.numpy(), moved.numpy()) == (5.0, 1.0)
