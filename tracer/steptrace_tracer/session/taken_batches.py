"""Steps that take their batch from an iterator: they get it as an argument while they are recorded.

A step can then be compiled for its batch, run again on it, and its batch is known before it runs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.errors import TraceError
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.taps import current_graph
from steptrace_tracer.session.fed_batches import as_it_is, can_feed

if TYPE_CHECKING:
    from collections.abc import Callable

    Arguments = tuple[tuple[Any, ...], dict[str, Any]]

WHOLE_DATA: Final = (
    "the wrapped function takes a whole data set, so it does many steps in one call; wrap the "
    "function that does one step, and call it for each batch"
)
_MORE: Final = (
    "the step takes more than one batch from its iterator; take them outside of it, and pass them "
    "as an argument"
)


_IN_A_LOOP: Final = (
    "the step takes its batches inside of a loop, or of an inner function, so that it may be many "
    "steps; wrap the function that does one step, and call it for each batch"
)


class OneBatch:
    """An iterator that gives one batch, and then what another one gives.

    Parameters
    ----------
    batch
        What it gives.
    then
        The other one; None to refuse.
    """

    def __init__(self, batch: Any, then: Any = None) -> None:
        self._batches = [batch]
        self._then = then
        self._graph = current_graph()

    def __iter__(self) -> OneBatch:
        """Return itself, as iterators do."""
        return self

    def __next__(self) -> Any:
        """Return the batch."""
        if self._then is None and current_graph() is not self._graph:
            raise TraceError(_IN_A_LOOP)
        if self._batches:
            return self._batches.pop()
        if self._then is None:
            raise TraceError(_MORE)
        return next(self._then)

    def get_next(self) -> Any:
        """Return the batch, as an iterator of a data set does."""
        return next(self)

    def get_next_as_optional(self) -> Any:
        """Return the batch as an optional, as an iterator of a data set does."""
        return tf.experimental.Optional.from_value(next(self))


@dataclasses.dataclass(frozen=True)
class TakenBatches:
    """Takes the batches of a step from the iterator among its arguments.

    Attributes
    ----------
    place
        Position or name of the argument.
    """

    place: int | str

    @classmethod
    def of(
        cls, args: tuple[Any, ...], kwargs: dict[str, Any], *, eager: bool
    ) -> TakenBatches | None:
        """Return what takes the batches of a step with these arguments; None without an iterator.

        Raises
        ------
        TraceError
            If it takes a whole data set.
        """
        places: tuple[tuple[int | str, Any], ...] = (*enumerate(args), *kwargs.items())
        for place, value in places:
            if isinstance(value, (tf.data.Dataset, tf.distribute.DistributedDataset)):
                raise TraceError(WHOLE_DATA)
            is_of_data = isinstance(value, (tf.data.Iterator, tf.distribute.DistributedIterator))
            if is_of_data or (eager and isinstance(value, Iterator)):
                return cls(place)
        return None

    def iterator(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the iterator among the arguments."""
        return args[self.place] if isinstance(self.place, int) else kwargs[self.place]

    def replaced(self, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> Arguments:
        """Return the arguments with `value` in the place of the iterator."""
        if isinstance(self.place, int):
            return (*args[: self.place], value, *args[self.place + 1 :]), kwargs
        return args, {**kwargs, self.place: value}

    def body(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """Return `body` as a function that gets the batch instead of the iterator."""

        def with_batch(*args: Any, **kwargs: Any) -> Any:
            batch = self.iterator(args, kwargs)
            args, kwargs = self.replaced(args, kwargs, OneBatch(batch))
            return body(*args, **kwargs)

        return with_batch


class _FollowedBatch:
    """An iterator of ``tf.data`` that gives a batch, and then what another one gives.

    Only Python can ask that other one.

    Parameters
    ----------
    spec
        The ``element_spec`` of the data set that the batches come from.
    """

    def __init__(self, spec: Any) -> None:
        self._batches: Any = iter(())
        self._iterator = iter(
            as_it_is(tf.data.Dataset.from_generator(self._given, output_signature=spec))
        )

    def __call__(self, batch: Any, then: Any) -> Any:
        """Return the iterator, whose next element is `batch`, and then what `then` gives."""
        self._batches = itertools.chain([batch], then)
        return self._iterator

    def _given(self) -> Iterator[Any]:
        while True:
            try:
                yield next(self._batches)
            except StopIteration:
                return


class FedStep:
    """The training's own step, on a batch that was taken from its iterator already.

    Parameters
    ----------
    step
        The user's function.
    taken
        What takes the batches.
    """

    def __init__(self, step: Callable[..., Any], taken: TakenBatches) -> None:
        self._step = step
        self._taken = taken
        self._fed: _FollowedBatch | None = None
        self._spec: Any = None

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any], batch: Any) -> Any:
        """Do one step on `batch`; where that does not do, what follows is taken too."""
        iterator = self._taken.iterator(args, kwargs)
        spec = getattr(iterator, "element_spec", None)
        feed: Any = OneBatch(batch, iterator)
        if isinstance(iterator, tf.data.Iterator) and can_feed(spec):
            if self._fed is None or self._spec != spec:
                self._fed, self._spec = _FollowedBatch(spec), spec
            # A function that is compiled for the iterator of a data set gets one.
            feed = self._fed(batch, iterator)
        args, kwargs = self._taken.replaced(args, kwargs, feed)
        return self._step(*args, **kwargs)
