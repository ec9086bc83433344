"""Values of variables that are kept on the disk for a while, because they take much memory."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_tracer._tensorflow import tf

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class StoredValues(Sequence[Any]):
    """The present values of variables, each read again when it is asked for.

    Parameters
    ----------
    variables
        Variables of numbers.
    folder
        Where the file is, which has no name and is gone with the last reference to it; made if it
        is not there.

    Raises
    ------
    OSError
        If they cannot be written.
    """

    def __init__(self, variables: Iterable[Any], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)
        weakref.finalize(self, self._file.close)
        self._places: list[tuple[int, np.dtype[Any], tuple[int, ...]]] = []
        for variable in variables:
            value = np.ascontiguousarray(variable.numpy())
            self._places.append((self._file.tell(), value.dtype, tuple(variable.shape)))
            self._file.write(value.reshape(-1).view(np.uint8).data)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: Any) -> Any:
        begin, dtype, shape = self._places[number]
        value = np.empty(shape, dtype)
        self._file.seek(begin)
        self._file.readinto(value.reshape(-1).view(np.uint8).data)
        return tf.constant(value)
