"""Copying between arrays of which at least one is a part of a larger one, as chunks are.

Compiled where the package was built with a C compiler (`_strided_copy.c`); by NumPy elsewhere, in
about twice the time.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

try:
    from steptrace_schema.encoding._strided_copy import copy_strided as _compiled_copy
except ImportError:  # built without a compiler
    _compiled_copy = None  # type: ignore[assignment]

IS_COMPILED: Final = _compiled_copy is not None
"""Whether the compiled copy is in use."""


def copy_strided(target: npt.NDArray[Any], source: npt.NDArray[Any]) -> None:
    """Copy an array into another of its shape and type that shares no memory with it.

    Elements are copied in C order of the axes as they are given, so it is fastest when these are in
    the order in which the larger array lies in memory.

    Raises
    ------
    ValueError
        If they differ in shape or type, or hold objects.

    Examples
    --------
    >>> rows = np.zeros((2, 4), np.float32)
    >>> copy_strided(rows[:, 1:3], np.ones((2, 2), np.float32))
    >>> rows[0]
    array([0., 1., 1., 0.], dtype=float32)
    """
    if IS_COMPILED:
        _compiled_copy(target, source)
    else:
        numpy_copy(target, source)


def numpy_copy(target: npt.NDArray[Any], source: npt.NDArray[Any]) -> None:
    """Copy by NumPy; takes what :func:`copy_strided` does.

    NumPy copies element by element where an array is a part of a larger one. Here the last axis, a
    few units long, is one element.
    """
    if target.shape != source.shape or target.dtype != source.dtype or target.dtype.hasobject:
        msg = "target and source have not the same shape and type of plain elements"
        raise ValueError(msg)
    contiguous = all(a.strides[-1:] == (a.itemsize,) for a in (target, source))
    if not source.size or not contiguous:
        target[...] = source
        return
    run = np.dtype((np.void, source.shape[-1] * source.itemsize))
    target.view(run)[...] = source.view(run)
