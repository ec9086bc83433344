"""The Python inside a training step that is a ``tf.function``: what happens there is seen."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from steptrace_tracer._tensorflow import tf
from steptrace_tracer.keras_private import function_settings, method_owner

if TYPE_CHECKING:
    from collections.abc import Callable


def plain(train_step: Any) -> tuple[Any, Any]:
    """Return the Python function inside a step, and the object that it is a method of, if any."""
    function = inspect.unwrap(getattr(train_step, "python_function", train_step))
    owner = getattr(function, "__self__", None)
    return getattr(function, "__func__", function), method_owner(owner)


def plain_body(train_step: Any) -> Callable[..., Any]:
    """Return a step as a function that runs in the graph of whoever calls it."""
    function, owner = plain(train_step)
    is_compiled = hasattr(train_step, "python_function")
    if is_compiled and function_settings(train_step).autograph and _has_source(function):
        function = tf.autograph.to_graph(function)
    body: Callable[..., Any] = function if owner is None else functools.partial(function, owner)
    return body


def _has_source(function: Any) -> bool:
    """Whether TensorFlow can, and so does, rewrite Python's loops and conditions."""
    try:
        inspect.getsource(function)
    except (OSError, TypeError):
        return False
    return True
