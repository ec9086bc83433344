"""What may be declared of an array: checked in one place, before anything is made of it.

A trace, and a journal, may come from a stranger. What they say of an array is looked at here before
memory is allocated for it or a file is written under its name. Each check raises ValueError with
what is wrong; who calls says in which file.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.format.paths import is_safe_path
from steptrace_schema.names import KINDS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

ELEMENT_TYPES: Final[dict[str, int]] = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
    "int64": 8,
    "uint64": 8,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
}
"""Types of an array's elements, and their bytes: numbers, never Python objects."""

MOST_DIMS: Final = 32
MOST_BYTES: Final = 2**60
"""Of an array's claimed extent; more is no size that a disk has."""
LONGEST_NAME: Final = 1024
"""Characters of a path, or of a dimension's name."""


def checked_kind(kind: object) -> Kind:
    """Return `kind` if it is one.

    Raises
    ------
    ValueError
        If it is none.
    """
    for known in KINDS:
        if kind == known:
            return known
    msg = f"{kind!r:.80} is no kind of data; the kinds are {', '.join(KINDS)}"
    raise ValueError(msg)


def checked_path(path: object) -> str:
    """Return `path` if it stays inside of its kind's group, and can be a path on disk.

    Raises
    ------
    ValueError
        If it does not.

    Examples
    --------
    >>> checked_path("sequential/dense/kernel")
    'sequential/dense/kernel'
    """
    if isinstance(path, str) and len(path) <= LONGEST_NAME and is_safe_path(path):
        return path
    msg = f"{path!r:.80} is no path of names of letters, digits and _ . + -"
    raise ValueError(msg)


def checked_element_type(name: object) -> str:
    """Return the name of an element type if arrays of it hold numbers and nothing else.

    Raises
    ------
    ValueError
        If they do not.
    """
    if isinstance(name, str) and name in ELEMENT_TYPES:
        return name
    msg = f"{name!r:.80} is no element type of a trace; these are {', '.join(ELEMENT_TYPES)}"
    raise ValueError(msg)


def checked_shape(shape: object, itemsize: int, *, least: int = 0) -> tuple[int, ...]:
    """Return a shape as a tuple if an array can have it.

    Parameters
    ----------
    shape
        A list or tuple of integers.
    itemsize
        Bytes of an element.
    least
        The smallest extent that is allowed: chunks have one of 1.

    Raises
    ------
    ValueError
        If an array cannot have it.
    """
    if not isinstance(shape, list | tuple) or len(shape) > MOST_DIMS:
        msg = f"the shape {shape!r:.80} is no list of at most {MOST_DIMS} integers"
        raise ValueError(msg)
    for extent in shape:
        if type(extent) is not int or extent < least:
            msg = f"the shape {shape!r:.80} is no list of integers of {least} or more"
            raise ValueError(msg)
    # Empty axes must not hide the others.
    if math.prod(max(1, extent) for extent in shape) * itemsize > MOST_BYTES:
        msg = f"an array of the shape {shape!r:.80} is larger than any disk"
        raise ValueError(msg)
    return tuple(shape)


def checked_dims(dims: object, count: int) -> tuple[str, ...]:
    """Return the names of dimensions as a tuple if there are `count` of them.

    Raises
    ------
    ValueError
        If there are not, or one is no name.
    """
    if (
        isinstance(dims, list | tuple)
        and len(dims) == count
        and all(isinstance(name, str) and 0 < len(name) <= LONGEST_NAME for name in dims)
    ):
        return tuple(dims)
    msg = f"{dims!r:.80} are not the names of {count} dimensions"
    raise ValueError(msg)


def checked_attributes(attributes: object) -> dict[str, Any]:
    """Return attributes of an array if they are an object.

    Raises
    ------
    ValueError
        If they are not.
    """
    if isinstance(attributes, dict):
        return attributes
    msg = f"the attributes {attributes!r:.80} are no object"
    raise ValueError(msg)


def checked_reason(value: object) -> str | None:
    """Return a sentence, or None; raise TypeError for anything else."""
    if not isinstance(value, str | None):
        msg = f"{value!r:.80} is given as a reason, where a sentence or null is expected"
        raise TypeError(msg)
    return value


def checked_flag(value: object) -> bool:
    """Return a truth value if it is one.

    Raises
    ------
    ValueError
        If it is not.
    """
    if isinstance(value, bool):
        return value
    msg = f"{value!r:.80} is neither true nor false"
    raise ValueError(msg)


def refuse_overlapping(keys: Iterable[str]) -> None:
    """Make sure that no array is declared twice, or inside of another one.

    Raises
    ------
    ValueError
        If one is.
    """
    known: set[str] = set()
    for key in keys:
        if key in known:
            msg = f"'{key}' is declared twice"
            raise ValueError(msg)
        known.add(key)
    for key in known:
        parent = key
        while parent := parent.rpartition("/")[0]:
            if parent in known:
                msg = f"'{key}' is declared inside of the array '{parent}'"
                raise ValueError(msg)
