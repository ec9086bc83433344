"""Weights that a program assigns between its own steps, as moving averages at the end of a loop."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.rebinding import rebound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_ASSIGNING: Final = ("assign", "assign_add", "assign_sub")


class AssignedOutside:
    """Has something done before a weight is assigned, except by a step.

    Parameters
    ----------
    models
        Whose weights are watched, until this is closed.
    before
        What is done.
    """

    def __init__(self, models: Sequence[Any], before: Callable[[], None]) -> None:
        self._before = before
        self._in_step = False
        self._stack = ExitStack()
        for variable in {id(v): v for model in models for v in model.weights}.values():
            for name in _ASSIGNING:
                wrap = partial(self._seen, variable.value, name)
                self._stack.enter_context(rebound(variable.value, name, wrap))

    @contextmanager
    def step(self) -> Iterator[None]:
        """Note that what is assigned in the context is what a step does."""
        self._in_step = True
        try:
            yield
        finally:
            self._in_step = False

    def close(self) -> None:
        """Watch no more."""
        self._stack.close()

    def _seen(self, variable: Any, name: str, _: Any) -> Callable[..., Any]:
        def seen(*args: Any, **kwargs: Any) -> Any:
            if not self._in_step and tf.executing_eagerly():
                self._before()
            # That of the class, which is rebound while a step is traced.
            return getattr(type(variable), name)(variable, *args, **kwargs)

        return seen
