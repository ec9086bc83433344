"""Handing single batches to a train function of Keras in the way that it gets them from a data set.

Keras compiles another program for a Python iterator than for one of a data set.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from steptrace_tracer._tensorflow import tf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FEEDABLE: Final = (tf.TensorSpec, tf.RaggedTensorSpec, tf.SparseTensorSpec, tf.OptionalSpec)


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
        self._iterator = iter(_given_by(self._batches, spec))
        self._single = _given_by(self._one_batch, spec)

    def __call__(self, batch: Any, then: Any = None) -> Any:
        """Return the iterator, whose next element is `batch`, and then what `then` gives."""
        self._waiting.append(batch)
        self._then = then
        return self._iterator

    def alone(self, batch: Any) -> Any:
        """Return an iterator that gives `batch` and ends, so that an execution has one step.

        The loop that Keras compiles for several steps is another program than that of one step.
        """
        self._waiting.append(batch)
        return iter(self._single)

    def _one_batch(self) -> Iterator[Any]:
        yield self._waiting.popleft()

    def _batches(self) -> Iterator[Any]:
        while True:
            try:
                yield self._waiting.popleft() if self._waiting else next(self._then)
            except StopIteration:
                return


def _given_by(generator: Callable[[], Iterator[Any]], spec: Any) -> Any:
    dataset = tf.data.Dataset.from_generator(generator, output_signature=spec)
    options = tf.data.Options()
    # A prefetch would ask for a batch that has not been handed over.
    options.experimental_optimization.apply_default_optimizations = False
    options.experimental_optimization.inject_prefetch = False
    options.autotune.enabled = False
    return dataset.with_options(options)


def can_feed(spec: Any) -> bool:
    """Whether batches of this ``element_spec`` can be handed over so; not those of replicas."""
    leaves = [] if spec is None else tf.nest.flatten(spec)
    return bool(leaves) and all(isinstance(leaf, _FEEDABLE) for leaf in leaves)
