"""Memory for arrays that are needed for a moment, again and again.

New memory is handed out page by page by the operating system, which for arrays of megabytes takes
longer than to fill them.
"""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

_LINE: Final = 64
"""Memory begins at a multiple of so many bytes.

What the operating system copies from the beginning of a file's page to a few bytes behind that of
another page, where NumPy's arrays begin, takes some processors six times as long.
"""


class Scratch:
    """Provides arrays whose memory is used again; any thread may borrow one."""

    def __init__(self) -> None:
        self._free: list[npt.NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    @contextmanager
    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Iterator[npt.NDArray[Any]]:
        """Lend a contiguous array for the context, with anything in it.

        Nothing may refer to it afterwards.

        Parameters
        ----------
        shape, dtype
            Of the array.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        memory = self._take(size)
        try:
            yield memory[:size].view(dtype).reshape(shape)
        finally:
            with self._lock:
                self._free.append(memory)

    def _take(self, size: int) -> npt.NDArray[np.uint8]:
        """Return the smallest free memory that is large enough, else replace the largest."""
        with self._lock:
            self._free.sort(key=len)
            for position, memory in enumerate(self._free):
                if len(memory) >= size:
                    return self._free.pop(position)
            if self._free:
                self._free.pop()
        memory = np.empty(size + _LINE, np.uint8)
        return memory[-memory.ctypes.data % _LINE :]
