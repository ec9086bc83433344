"""Handing single batches to a train function of Keras in the way that it gets them from a data set.

Keras compiles another program for a Python iterator than for one of a data set. A data set of
``from_generator`` would do, but has TensorFlow tell the C library to give freed memory back at once
(``mallopt``), for the whole process: a step of MobileNetV2 then takes a fifth longer.
"""

from __future__ import annotations

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
    """

    def __init__(self, spec: Any) -> None:
        self._spec = spec
        self._parts = tf.nest.flatten(spec, expand_composites=True)
        self._waiting = tf.queue.FIFOQueue(_MOST_WAITING, [part.dtype for part in self._parts])
        batches = tf.data.Dataset.counter().map(self._take)
        self._iterator = iter(as_it_is(batches))
        self._single = as_it_is(batches.take(1))

    def __call__(self, batch: Any) -> Any:
        """Return the iterator, whose next element is `batch`."""
        self._hand_over(batch)
        return self._iterator

    def alone(self, batch: Any) -> Any:
        """Return an iterator that gives `batch` and ends, so that an execution has one step.

        The loop that Keras compiles for several steps is another program than that of one step.
        """
        self._hand_over(batch)
        return iter(self._single)

    def _hand_over(self, batch: Any) -> None:
        self._waiting.enqueue(tf.nest.flatten(batch, expand_composites=True))

    def _take(self, _: Any) -> Any:
        taken = self._waiting.dequeue()
        parts = taken if isinstance(taken, (list, tuple)) else [taken]
        for part, spec in zip(parts, self._parts, strict=True):
            part.set_shape(spec.shape)
        return tf.nest.pack_sequence_as(self._spec, parts, expand_composites=True)


def as_it_is(dataset: Any) -> Any:
    """Return a data set that asks for no element before it is wanted."""
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    options.experimental_optimization.inject_prefetch = False
    options.autotune.enabled = False
    return dataset.with_options(options)


def can_feed(spec: Any) -> bool:
    """Whether batches of this ``element_spec`` can be handed over so; not those of replicas."""
    leaves = [] if spec is None else tf.nest.flatten(spec)
    return bool(leaves) and all(isinstance(leaf, _FEEDABLE) for leaf in leaves)
