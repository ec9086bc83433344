"""What Python sees of a model at one moment, to compile something later as it was seen then.

A compiled step keeps what it found when TensorFlow compiled it: which layers were trainable, and
what numbers and functions the attributes of its objects held.
"""

from __future__ import annotations

import dataclasses
import types
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from steptrace_tracer.capture.names import walk_layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PLAIN: Final = (bool, int, float, complex, str, bytes, type(None))
_FUNCTIONS: Final = (types.FunctionType, types.MethodType)
_NOT_SEEN: Final = frozenset({"train_function", "test_function", "predict_function"})
"""Attributes in which Keras keeps what it has compiled."""
_LIBRARIES: Final = ("keras", "tensorflow", "builtins")


@dataclasses.dataclass(frozen=True)
class ModelView:
    """The plain attributes of models, their layers, variables, losses, optimizers and own classes.

    Attributes
    ----------
    seen
        Objects with the attributes that they had, by name.
    """

    seen: tuple[tuple[Any, dict[str, Any]], ...]

    @classmethod
    def of(cls, models: Sequence[Any], optimizers: Sequence[Any]) -> ModelView:
        """Return what `models` and `optimizers` are like now."""
        layers = [layer for model in models for layer, _ in walk_layers(model)]
        losses = [getattr(model, "loss", None) for model in models]  # or a name, or a dict
        variables = [variable for model in models for variable in model.variables]
        objects = [*models, *layers, *losses, *optimizers, *variables]
        classes = [base for found in objects for base in type(found).__mro__ if _is_own(base)]
        distinct = {
            id(found): found for found in (*objects, *classes) if hasattr(found, "__dict__")
        }
        return cls(tuple((found, _plain_attributes(found)) for found in distinct.values()))

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Make the objects look as they did, for as long as something is compiled."""
        with ExitStack() as stack:
            for found, before in self.seen:
                now = dict(vars(found))
                for name, value in before.items():
                    if name in now and not _same(now[name], value):
                        stack.callback(_set, found, name, now[name])
                        _set(found, name, value)
                for name in now.keys() - before.keys():
                    # What the class says was there to see, until the object said otherwise.
                    if _is_seen(name, now[name]) and hasattr(type(found), name):
                        stack.callback(_set, found, name, now[name])
                        _remove(found, name)
            yield


def _is_own(base: type) -> bool:
    """Whether a class is of the user, rather than of a library."""
    return base is not object and base.__module__.partition(".")[0] not in _LIBRARIES


def _set(found: Any, name: str, value: Any) -> None:
    setter = type.__setattr__ if isinstance(found, type) else object.__setattr__
    setter(found, name, value)


def _remove(found: Any, name: str) -> None:
    remover = type.__delattr__ if isinstance(found, type) else object.__delattr__
    remover(found, name)


def _is_seen(name: str, value: Any) -> bool:
    if name in _NOT_SEEN or name.startswith("__"):
        return False
    return _is_plain(value) or isinstance(value, _FUNCTIONS)


def _plain_attributes(found: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(found).items() if _is_seen(name, value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, _FUNCTIONS) or isinstance(other, _FUNCTIONS):
        return bool(one == other)  # a method is a new object each time it is asked for
    return type(one) is type(other) and (one is other or (_is_plain(one) and one == other))
