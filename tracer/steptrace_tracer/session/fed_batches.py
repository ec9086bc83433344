"""Handing single batches to a train function of Keras in the way that it gets them from a data set.

Keras compiles another program for a Python iterator than for one of a data set. A data set of
``from_generator`` would do, but has TensorFlow tell the C library to give freed memory back at once
(``mallopt``), for the whole process: a step of MobileNetV2 then takes a fifth longer.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from typing import Any, Final

from steptrace_tracer._tensorflow import tf

_FEEDABLE: Final = (tf.TensorSpec, tf.RaggedTensorSpec, tf.SparseTensorSpec, tf.OptionalSpec)
_MOST_WAITING: Final = 2**20


class FedBatches:
    """An iterator of ``tf.data`` that gives what it is handed, and no more may be asked of it.

    Parameters
    ----------
    spec
        The ``element_spec`` of the data set that the batches come from.
    strategy
        What spreads the batches over replicas; None where nothing does.
    """

    def __init__(self, spec: Any, strategy: Any = None) -> None:
        self._strategy = strategy
        self._spec = spec if strategy is None else _of_one_replica(spec)
        # Of replicas, batches are taken ahead: what waits for one kind must not take the other's.
        self._waiting, batches = self._fed()
        self._waiting_alone, alone = self._fed()
        self._single = alone.take(1 if strategy is None else strategy.num_replicas_in_sync)
        self._iterator = self._over(batches)
        if strategy is not None:
            weakref.finalize(self, _end, self._waiting, self._spec, self._iterator)

    def __call__(self, batch: Any) -> Any:
        """Return the iterator, whose next element is `batch`."""
        self._hand_over(self._waiting, batch)
        return self._iterator

    def alone(self, batch: Any) -> Any:
        """Return an iterator that gives `batch` and ends, so that an execution has one step.

        The loop that Keras compiles for several steps is another program than that of one step.
        """
        self._hand_over(self._waiting_alone, batch)
        return self._over(self._single)

    def _fed(self) -> tuple[Any, Any]:
        """Return a queue, and a data set of what it is handed."""
        parts = tf.nest.flatten(self._spec, expand_composites=True)
        waiting = tf.queue.FIFOQueue(_MOST_WAITING, [tf.bool, *(part.dtype for part in parts)])
        # Not a method: TensorFlow keeps the function, and what it belongs to.
        taken = tf.data.Dataset.counter().map(functools.partial(_taken, waiting, self._spec))
        going_on = taken.take_while(lambda goes_on, _: goes_on)
        return waiting, going_on.map(lambda _, batch: batch)

    def _over(self, batches: Any) -> Any:
        if self._strategy is None:
            return iter(as_it_is(batches))
        spread = self._strategy.distribute_datasets_from_function(lambda _: as_it_is(batches))
        return iter(spread)

    def _hand_over(self, waiting: Any, batch: Any) -> None:
        if self._strategy is None:
            waiting.enqueue([True, *tf.nest.flatten(batch, expand_composites=True)])
            return
        for parts in zip(*map(_each, tf.nest.flatten(batch)), strict=True):
            waiting.enqueue([True, *parts])


def _taken(waiting: Any, spec: Any, _: Any) -> tuple[Any, Any]:
    """Return whether there is a batch, and the batch."""
    goes_on, *parts = waiting.dequeue()
    for part, own in zip(parts, tf.nest.flatten(spec, expand_composites=True), strict=True):
        part.set_shape(own.shape)
    return goes_on, tf.nest.pack_sequence_as(spec, parts, expand_composites=True)


def _end(waiting: Any, spec: Any, iterator: Any) -> None:
    """End the data that an iterator over replicas waits for.

    A thread of its own takes the parts of the replicas, and TensorFlow crashes where an iterator
    is deleted while that waits.
    """
    parts = tf.nest.flatten(spec, expand_composites=True)
    # Python may collect garbage while a function is being traced, which is not to have this in it.
    with tf.init_scope():
        waiting.enqueue([False, *map(_nothing, parts)])
        with contextlib.suppress(StopIteration, tf.errors.OpError):
            next(iterator)


def _nothing(spec: Any) -> Any:
    return tf.zeros([0 if extent is None else extent for extent in spec.shape], spec.dtype)


def as_it_is(dataset: Any) -> Any:
    """Return a data set that asks for no element before it is wanted."""
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    options.experimental_optimization.inject_prefetch = False
    options.autotune.enabled = False
    return dataset.with_options(options)


def can_feed(spec: Any, strategy: Any = None) -> bool:
    """Whether batches of this ``element_spec`` can be handed over so.

    Those of replicas can where each replica has tensors alone, of the same types.
    """
    leaves = [] if spec is None else tf.nest.flatten(spec)
    if strategy is not None:
        own = [_each(leaf) for leaf in leaves]
        alike = all(len(parts) == strategy.num_replicas_in_sync for parts in own)
        return bool(own) and alike and all(_are_alike(parts) for parts in own)
    return bool(leaves) and all(isinstance(leaf, _FEEDABLE) for leaf in leaves)


def _each(value: Any) -> list[Any]:
    """Return the parts of a value that is spread over replicas, or of its spec."""
    parts: list[Any] = tf.nest.flatten(value, expand_composites=True)
    return parts


def _are_alike(parts: list[Any]) -> bool:
    return all(isinstance(part, tf.TensorSpec) and part == parts[0] for part in parts)


def _of_one_replica(spec: Any) -> Any:
    return tf.nest.map_structure(lambda leaf: _each(leaf)[0], spec)
