"""Adding callbacks to every ``fit`` of a program that is not to be changed.

Keras is not imported here: a program may set environment variables before it does so itself.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import inspect
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    ExtraCallbacks = Callable[[list[Any]], list[Any]]
    Change = Callable[[inspect.BoundArguments], list[Any]]


@contextmanager
def every_fit(
    added: ExtraCallbacks,
    prepare: Callable[[Any], None] | None = None,
    change: Change | None = None,
) -> Iterator[None]:
    """Give every ``fit`` that is called inside the context more callbacks.

    Parameters
    ----------
    added
        Called at each ``fit`` with the callbacks that it was given; returns those to add. One that
        is a context manager, as the tracer is, is entered around the ``fit``, so that it sees an
        exception that ends it.
    prepare
        Called with the module ``keras`` once it is imported.
    change
        Called with the arguments of each ``fit``; may replace them, and returns callbacks that come
        before those that are added.
    """
    owner: Any = None
    original: Any = None

    def patch(keras: Any) -> None:
        nonlocal owner, original
        if prepare is not None:
            prepare(keras)
        owner = next(base for base in keras.Model.__mro__ if "fit" in vars(base))
        original = vars(owner)["fit"]
        owner.fit = _with_more(original, added, keras, change)

    watch = _AfterImport("keras", patch)
    if "keras" in sys.modules:
        patch(sys.modules["keras"])
    else:
        sys.meta_path.insert(0, watch)
    try:
        yield
    finally:
        if watch in sys.meta_path:
            sys.meta_path.remove(watch)
        if owner is not None:
            owner.fit = original


def _with_more(
    fit: Callable[..., Any], added: ExtraCallbacks, keras: Any, change: Change | None
) -> Callable[..., Any]:
    signature = inspect.signature(fit)

    @functools.wraps(fit)
    def with_more(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return fit(*args, **kwargs)  # whose message is about the user's own call
        given = bound.arguments.get("callbacks")
        if isinstance(given, keras.callbacks.CallbackList):
            more = added(list(given.callbacks))
            more = [*(change(bound) if change is not None else ()), *more]
            with _appended(given, more, bound.args[0]), _entered(more):
                return fit(*bound.args, **bound.kwargs)
        present = list(keras.tree.flatten(given)) if given else []
        more = added(present)
        more = [*(change(bound) if change is not None else ()), *more]
        bound.arguments["callbacks"] = [*present, *more]
        with _entered(more):
            return fit(*bound.args, **bound.kwargs)

    return with_more


@contextmanager
def _appended(callbacks: Any, more: Sequence[Any], model: Any) -> Iterator[None]:
    """Have `more` in the user's own list for as long as the ``fit`` takes."""
    for callback in more:
        callback.set_model(model)
        callback.set_params(callbacks.params)
        callbacks.callbacks.append(callback)
    try:
        yield
    finally:
        for callback in more:
            callbacks.callbacks.remove(callback)


@contextmanager
def _entered(callbacks: Sequence[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for callback in callbacks:
            if hasattr(callback, "__exit__"):
                stack.enter_context(callback)
        yield


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with a module when it has been imported, the first time it is."""

    def __init__(self, name: str, then: Callable[[Any], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find the module as Python does, and have `then` called behind its own code."""
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_then(module: ModuleType) -> None:
            execute(module)
            self._then(module)

        spec.loader.exec_module = execute_then  # type: ignore[method-assign]
        return spec
