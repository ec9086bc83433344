"""Calling a compiled step by the program that its arguments are known to need."""

from __future__ import annotations

from typing import Any

from steptrace_tracer._tensorflow import tf


class DirectCall:
    """A ``tf.function`` that looks for the program of arguments of one kind once.

    TensorFlow binds and compares the types of all arguments at every call, which takes a tenth of
    the step of a small network. It does so because scopes, such as devices and tapes, decide with
    them: so this is for a function that is always called within the same ones.

    Parameters
    ----------
    function
        The function.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self._programs: dict[Any, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        kind = _kind((args, kwargs))
        if kind is None or not tf.executing_eagerly() or tf.config.functions_run_eagerly():
            return self._function(*args, **kwargs)
        if (program := self._programs.get(kind)) is not None:
            return program(*args, **kwargs)
        result = self._function(*args, **kwargs)
        self._programs[kind] = self._function.get_concrete_function(*args, **kwargs)
        return result

    def get_concrete_function(self, *args: Any, **kwargs: Any) -> Any:
        """Return the program for these arguments, compiled if there is none yet."""
        return self._function.get_concrete_function(*args, **kwargs)


def _kind(value: Any) -> Any:
    """Return structure, types and shapes of tensors; None where there is anything else."""
    if isinstance(value, tf.Tensor):
        return value.dtype, value.shape
    if type(value) in (tuple, list):
        parts = [_kind(part) for part in value]
        return None if None in parts else (type(value), *parts)
    if type(value) is dict:
        parts = [_kind(part) for part in value.values()]
        return None if None in parts else (*value, *parts)
    return None
