"""Handing single batches to a train function of Keras in the way that it gets them from a data set.

Keras compiles another program for a Python iterator than for one of a data set.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from steptrace_tracer._tensorflow import tf

if TYPE_CHECKING:
    from collections.abc import Iterator


class FedBatches:
    """An iterator of ``tf.data`` that gives what it is handed.

    Parameters
    ----------
    spec
        The ``element_spec`` of the data set that the batches come from.
    """

    def __init__(self, spec: Any) -> None:
        self._waiting: deque[Any] = deque()
        self._then: Any = None
        dataset = tf.data.Dataset.from_generator(self._batches, output_signature=spec)
        options = tf.data.Options()
        # A prefetch would ask for a batch that has not been handed over.
        options.experimental_optimization.apply_default_optimizations = False
        options.experimental_optimization.inject_prefetch = False
        options.autotune.enabled = False
        self._iterator = iter(dataset.with_options(options))

    def __call__(self, batch: Any, then: Any = None) -> Any:
        """Return the iterator, whose next element is `batch`, and then what `then` gives."""
        self._waiting.append(batch)
        self._then = then
        return self._iterator

    def _batches(self) -> Iterator[Any]:
        while True:
            try:
                yield self._waiting.popleft() if self._waiting else next(self._then)
            except StopIteration:
                return


def can_feed(spec: Any) -> bool:
    """Whether batches of this ``element_spec`` can be handed over so: dense tensors of numbers."""
    leaves = [] if spec is None else tf.nest.flatten(spec)
    return bool(leaves) and all(
        isinstance(leaf, tf.TensorSpec)
        and (leaf.dtype.is_floating or leaf.dtype.is_integer or leaf.dtype.is_bool)
        for leaf in leaves
    )
