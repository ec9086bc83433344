"""What a training's own Python code says of how its steps are computed, in JSON-ready values."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import sysconfig
import types
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIBRARIES: Final = ("keras", "tensorflow", "numpy", "steptrace_tracer", "steptrace_schema")
_PLACES: Final = frozenset(
    os.path.realpath(path)
    for name, path in sysconfig.get_paths().items()
    if name in ("purelib", "platlib")
)
_PLAIN: Final = (bool, int, float, complex, str, bytes, type(None))
_MOST_PARTS: Final = 20_000
"""Of what is followed; more is no code that decides how a step is computed."""
_MOST_BYTES: Final = 2**20
"""Of an array whose numbers are looked at."""


class CodeDigest:
    """Follows functions, classes and settings, each once, through what they refer to.

    A function refers to what its code names among the globals and closures, a class to its methods,
    an object of Keras to its settings (``get_config``), and one of a class that is not installed to
    its attributes. Libraries are taken as they are: their versions say the rest.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._kept: list[Any] = []  # an id is of one thing as long as that lives

    def of(self, thing: Any) -> Any:
        """Return what `thing` says, without addresses; of what was followed before, its type."""
        if isinstance(thing, _PLAIN):
            return repr(thing)
        kind = type(thing).__qualname__
        if id(thing) in self._seen or len(self._seen) >= _MOST_PARTS:
            return kind
        self._seen.add(id(thing))
        self._kept.append(thing)
        if isinstance(thing, dict):
            return [kind, [[self.of(key), self.of(value)] for key, value in thing.items()]]
        if isinstance(thing, list | tuple):
            return [kind, [self.of(value) for value in thing]]
        if isinstance(thing, functools.partial):
            return [kind, self.of(thing.func), self.of(thing.args), self.of(thing.keywords)]
        if isinstance(thing, types.MethodType):
            return [kind, self.of(thing.__func__), self.of(thing.__self__)]
        if isinstance(thing, types.FunctionType):
            return [kind, *self._function(thing)]
        if isinstance(thing, type):
            return [thing.__qualname__, *self._class(thing)]
        if isinstance(thing, np.ndarray):
            return [kind, str(thing.dtype), list(thing.shape), _numbers(thing)]
        return [kind, *self._object(thing)]

    def _function(self, function: types.FunctionType) -> Iterator[Any]:
        code = function.__code__
        yield _of_code(code)
        if _is_of_a_library(function):
            return
        yield self.of(function.__defaults__)
        yield self.of(function.__kwdefaults__)
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        yield [[name, self.of(_content(cell))] for name, cell in cells]
        names = dict.fromkeys(_names(code))
        found = {name: function.__globals__[name] for name in names if name in function.__globals__}
        yield [
            [name, self.of(value)]
            for name, value in found.items()
            if not isinstance(value, types.ModuleType)
        ]

    def _class(self, kind: type) -> Iterator[Any]:
        """Yield what the user's own classes, among those that `kind` is made of, define."""
        for base in kind.__mro__:
            if base is object or _is_of_a_library(base):
                continue
            for name, member in sorted(vars(base).items()):
                is_own = isinstance(member, _PLAIN) and not name.startswith("__")
                if is_own or isinstance(member, types.FunctionType):
                    yield [name, self.of(member)]

    def _object(self, thing: Any) -> Iterator[Any]:
        kind = type(thing)
        if any(_root(base) == "keras" for base in kind.__mro__):
            yield _config(thing)
        yield self.of(kind)
        if not _is_installed(kind):
            attributes = getattr(thing, "__dict__", {})
            yield [
                [name, self.of(value)]
                for name, value in attributes.items()
                if not name.startswith("_")
            ]


def _config(thing: Any) -> Any:
    try:
        return thing.get_config()
    except Exception as error:  # a class of the user's need not have one; its code stands for it
        return type(error).__name__


def _root(thing: Any) -> str:
    return str(getattr(thing, "__module__", "")).partition(".")[0]


def _is_of_a_library(thing: Any) -> bool:
    return _root(thing) in _LIBRARIES or _root(thing) in sys.stdlib_module_names


def _is_installed(kind: type) -> bool:
    """Whether a class is of an installed package, whose objects may be anything."""
    module = sys.modules.get(str(kind.__module__))
    path = os.path.realpath(getattr(module, "__file__", None) or "")
    return _is_of_a_library(kind) or any(path.startswith(f"{place}{os.sep}") for place in _PLACES)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _names(code: types.CodeType) -> Iterator[str]:
    """Yield the names that a function, and those inside it, may look for among the globals."""
    yield from code.co_names
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _names(value)


def _of_code(code: types.CodeType) -> Any:
    constants = [
        _of_code(value) if isinstance(value, types.CodeType) else repr(value)
        for value in code.co_consts
    ]
    return [code.co_code.hex(), list(code.co_names), constants]


def _numbers(array: np.ndarray[Any, Any]) -> str:
    if array.nbytes > _MOST_BYTES or array.dtype.hasobject:
        return ""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
