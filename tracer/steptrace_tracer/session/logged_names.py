"""What may be logged under which name."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from steptrace_schema.format.paths import safe_path


class LoggedNames:
    """Checks what is logged: numbers, under one name always of the same rank and dtype."""

    def __init__(self) -> None:
        self._first: dict[str, npt.NDArray[Any]] = {}

    def checked(self, name: str, value: npt.NDArray[Any]) -> tuple[str, npt.NDArray[Any]]:
        """Return the path and the array that `value` is recorded as.

        Parameters
        ----------
        name
            What the user calls it.
        value
            Any shape; boolean, integer or floating point. A single number becomes a float64.

        Raises
        ------
        ValueError
            If the name has no letter or digit, the value is no number, or it has another rank or
            dtype than an earlier one of this name.

        Examples
        --------
        >>> LoggedNames().checked("reward", np.asarray(1))
        ('reward', array(1.))
        """
        path = safe_path(name)
        if not path:
            msg = f"{name!r} is not a name for a logged value; use letters and digits"
            raise ValueError(msg)
        if value.dtype.kind not in "biuf":
            msg = f"'{name}' is logged as {value.dtype}; log numbers"
            raise ValueError(msg)
        if value.ndim == 0:
            value = value.astype(np.float64)  # 1 and 1.5 may be logged under one name
        value = value.astype(value.dtype.newbyteorder("="), copy=False)
        known = self._first.setdefault(path, value)
        if (known.ndim, known.dtype) != (value.ndim, value.dtype):
            msg = (
                f"'{name}' was logged with {known.ndim} dimensions as {known.dtype}, and now with "
                f"{value.ndim} as {value.dtype}; log it under another name"
            )
            raise ValueError(msg)
        return path, value
