"""Steps that run on several replicas at once, each on its part of the batch."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from steptrace_schema.errors import TraceError
from steptrace_schema.format.layout import split_key
from steptrace_schema.names import LOSS, LOSSES
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.batch_rows import count_rows, first_rows, joined_rows
from steptrace_tracer.capture.names import leaves
from steptrace_tracer.capture.rebinding import rebound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from steptrace_tracer.capture.program import Batch

_SAMPLE_KINDS = ("activations", "activation_gradients", "inputs")


def run_on_replicas(
    strategy: Any,
    step: Callable[..., tuple[Any, dict[str, Any]]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """Run `step` on every replica, and put what the replicas return together.

    Gradients and losses are summed, as the optimizer does: each replica's loss is its share of the
    batch's. Rows of samples are placed one after the other, replica by replica. What else is in the
    result is averaged, as Keras does with the logs.

    Parameters
    ----------
    strategy
        A ``tf.distribute.Strategy``.
    step
        Returns a result and its taps.
    args, kwargs
        What to call it with.
    """
    result, tensors = strategy.run(step, args, kwargs)

    def mean(value: Any) -> Any:
        return strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None)

    return tf.nest.map_structure(mean, result), _together(strategy, tensors)


@contextmanager
def on_every_replica(
    strategy: Any, on_replica: Callable[..., tuple[Any, dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """Have what ``strategy.run`` is called with in the context return its taps.

    Parameters
    ----------
    strategy
        A ``tf.distribute.Strategy``.
    on_replica
        Called on each replica with the function that is to run there, and its arguments; returns
        the function's result and its taps.

    Yields
    ------
    dict
        Filled with the taps, put together as in :func:`run_on_replicas`.

    Raises
    ------
    TraceError
        At a second call of ``strategy.run``: a step has one forward and backward pass.
    """
    together: dict[str, Any] = {}

    def wrap(run: Any) -> Any:
        def seen(fn: Any, args: Any = (), kwargs: Any = None, options: Any = None) -> Any:
            if together:
                msg = "the training step calls strategy.run more than once; wrap one call of it"
                raise TraceError(msg)
            result, tensors = run(functools.partial(on_replica, fn), args, kwargs, options)
            together.update(_together(strategy, tensors))
            return result

        return seen

    with rebound(strategy, "run", wrap):
        yield together


def whole_batch(strategy: Any, batch: Batch, samples: int | None) -> tuple[Batch, Batch, Any]:
    """Return a batch that is spread over replicas as one.

    Parameters
    ----------
    strategy
        A ``tf.distribute.Strategy``.
    batch
        Its leaves hold one tensor per replica.
    samples
        How many rows of each replica are kept; None for all.

    Returns
    -------
    whole, kept : Batch
        All rows, and those that are kept, replica by replica.
    replica
        The number of the replica of each row that is kept, int64, dims (sample,).
    """

    def joined_with(limit: int | None) -> Callable[[Any], Any]:
        def join(value: Any) -> Any:
            parts = _parts(strategy, value)
            if any(part.shape.rank == 0 for part in parts):
                return parts[0]
            return joined_rows([first_rows(part, limit) for part in parts])

        return join

    def structure(limit: int | None) -> Batch:
        return batch.map(joined_with(limit))

    first = next((tensor for _, tensor in leaves(batch.x)), None)
    counts = [count_rows(part) for part in _parts(strategy, first)] if first is not None else []
    replica = [
        tf.fill(
            [count if samples is None else tf.minimum(count, samples)],
            tf.constant(number, tf.int64),
        )
        for number, count in enumerate(counts)
    ]
    return structure(None), structure(samples), tf.concat(replica, 0) if replica else None


def first_replica(strategy: Any, structure: Any) -> Any:
    """Return the first replica's part of a structure."""
    return tf.nest.map_structure(lambda value: _parts(strategy, value)[0], structure)


def _together(strategy: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    return {key: _merged(key, _parts(strategy, value)) for key, value in tensors.items()}


def _parts(strategy: Any, value: Any) -> tuple[Any, ...]:
    parts: tuple[Any, ...] = strategy.experimental_local_results(value)
    return parts


def _merged(key: str, parts: tuple[Any, ...]) -> Any:
    if "/" not in key:  # counts of rows
        return tf.add_n(list(parts))
    kind, path = split_key(key)
    if kind in _SAMPLE_KINDS:
        return tf.concat(parts, 0)
    if kind == "gradients" or path == LOSS or path.startswith(f"{LOSSES}/"):
        return tf.add_n(list(parts))
    return parts[0]
