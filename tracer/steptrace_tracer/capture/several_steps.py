"""Several steps in one execution, as ``steps_per_execution`` asks for, with their taps stacked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.batch_taps import BATCH_ROWS
from steptrace_tracer.capture.finished_taps import ROWS
from steptrace_tracer.capture.step_result import StepResult
from steptrace_tracer.capture.taps import to_array

if TYPE_CHECKING:
    from collections.abc import Callable

    from steptrace_tracer.capture.traced_step import TracedStep

MOST_BYTES: Final = 64 * 2**20
"""Of the taps of one execution, which are in memory until all its steps are done."""


class SeveralSteps:
    """Runs so many steps of a compiled step, one after the other, without Python in between.

    The loop is the one that Keras compiles: it takes batches from the data set until it has done
    all steps, or there is no batch left.

    Parameters
    ----------
    traced
        The step.
    around
        What is called for each batch: the step with its taps.
    specs
        What `around` returns: its result, and ``kind/path`` to tensor.
    count
        Steps of one execution.
    """

    def __init__(
        self, traced: TracedStep, around: Callable[[Any], Any], specs: Any, count: int
    ) -> None:
        self._traced = traced
        self._around = around
        self._result_specs, self._specs = specs
        self.count = count
        self.function = tf.function(self._steps, reduce_retracing=True, autograph=False)

    @classmethod
    def of(cls, traced: TracedStep, iterator: Any, count: int) -> SeveralSteps | None:
        """Return what does `count` steps at once; None where each has to be done by itself.

        It is compiled here, before anything runs.

        Parameters
        ----------
        traced
            A step that was done before.
        iterator
            Gives its batches.
        count
            Steps of one execution.
        """
        program = traced.program
        if (
            traced.traces == 0
            or traced.draws_random_numbers  # another graph of which would draw other ones
            or program.eager
            or program.strategy is not None
            or program.compiled.signature != repr(iterator.element_spec)
        ):
            return None
        around = traced.together()
        result, tensors = around.get_concrete_function(iterator.element_spec).structured_outputs
        if not all(map(_has_shape, tf.nest.flatten(result))) or any(map(_varies, tensors.values())):
            return None
        specs = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), (result, tensors))
        several = cls(traced, around, specs, count)
        several.function.get_concrete_function(iterator)
        return several

    def run(self, iterator: Any, step: int) -> list[StepResult]:
        """Train on the next batches, and return what the steps gave; nothing without a batch.

        They are together where their batches are of one size. The result of the last one is that of
        all of them, as with Keras. The first one's number, `step`, makes no difference here.
        """
        wall_time, start = time.time(), time.perf_counter()
        done, result, stacked, lengths = self.function(iterator)
        if not (count := int(done)):
            return []
        duration = (time.perf_counter() - start) / count
        arrays = {key: to_array(tensor) for key, tensor in stacked.items()}
        lengths = {key: np.asarray(found) for key, found in lengths.items()}
        counts = [*lengths.values(), *(arrays[key] for key in (ROWS, BATCH_ROWS) if key in arrays)]
        if any((found != found[0]).any() for found in counts):
            rows = _apart(arrays, lengths, count)
            for tensors in rows:
                self._traced.note_function(tensors)
            return [
                StepResult(result, tensors, wall_time + number * duration, duration)
                for number, tensors in enumerate(rows)
            ]
        for key, found in lengths.items():
            arrays[key] = arrays[key].reshape(count, found[0], *arrays[key].shape[1:])
        self._traced.note_function(arrays)
        return [StepResult(result, arrays, wall_time, duration, together=count)]

    def _steps(self, iterator: Any) -> Any:
        lists = {
            key: tf.raw_ops.EmptyTensorList(
                element_shape=_element_shape(spec), max_num_elements=-1, element_dtype=spec.dtype
            )
            for key, spec in self._specs.items()
        }
        nothing = tf.nest.map_structure(
            lambda spec: tf.zeros(spec.shape, spec.dtype), self._result_specs
        )

        def goes_on(number: Any, _result: Any, _lists: Any, batch: Any) -> Any:
            return tf.logical_and(tf.less(number, self.count), batch.has_value())

        def step(number: Any, _result: Any, lists: Any, batch: Any) -> Any:
            result, tensors = self._around(batch.get_value())
            lists = {
                key: tf.raw_ops.TensorListPushBack(input_handle=handle, tensor=tensors[key])
                for key, handle in lists.items()
            }
            # No more is taken than is trained on.
            batch = tf.cond(
                tf.less(number + 1, self.count), iterator.get_next_as_optional, lambda: batch
            )
            return number + 1, result, lists, batch

        done, result, lists, _ = tf.while_loop(
            goes_on,
            step,
            (tf.constant(0), nothing, lists, iterator.get_next_as_optional()),
            parallel_iterations=1,
        )
        stacked, lengths = {}, {}
        for key, handle in lists.items():
            spec = self._specs[key]
            if None in spec.shape:
                stacked[key], lengths[key] = tf.raw_ops.TensorListConcatV2(
                    input_handle=handle,
                    element_shape=_element_shape(spec),
                    leading_dims=tf.constant([], tf.int64),
                    element_dtype=spec.dtype,
                )
            else:
                stacked[key] = tf.raw_ops.TensorListStack(
                    input_handle=handle,
                    element_shape=_element_shape(spec),
                    element_dtype=spec.dtype,
                )
        return done, result, stacked, lengths


def _varies(tensor: Any) -> bool:
    """Whether more of a tensor than its first length differs from batch to batch."""
    return tensor.shape.rank is None or None in tensor.shape[1:]


def _has_shape(value: Any) -> bool:
    return isinstance(value, tf.Tensor) and bool(value.shape.is_fully_defined())


def _element_shape(spec: Any) -> Any:
    return tf.constant([-1 if n is None else n for n in spec.shape], tf.int32)


def _apart(stacked: dict[str, Any], lengths: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return the arrays of each step, of batches that are not all of one size."""
    steps: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, values in stacked.items():
        if key in lengths:
            values = np.split(values, np.cumsum(lengths[key])[:-1])
        for step, value in zip(steps, values, strict=True):
            step[key] = value
    return steps
