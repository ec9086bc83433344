"""Whether the arrays of a record are as the journal declares them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.errors import DamagedTraceError

if TYPE_CHECKING:
    from pathlib import Path

    from steptrace_schema.format.layout import ArraySpec


def refuse_misfit(
    path: Path, spec: ArraySpec, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    """Make sure that an array of a record has the declared dimensions, type, and size at most.

    Parameters
    ----------
    path
        The record, named in the error.
    spec
        The declaration. A row may be smaller, as that of a smaller last batch; a static array not.
    shape, dtype
        Of the array.

    Raises
    ------
    DamagedTraceError
        If it has not.
    """
    if (
        len(shape) == len(spec.shape)
        and all(found <= most for found, most in zip(shape, spec.shape, strict=True))
        and not (spec.static and shape != spec.shape)
        and np.can_cast(dtype, spec.dtype, "same_kind")
    ):
        return
    msg = (
        f"{path}: '{spec.key}' is {dtype} {shape}, where {spec.dtype} {spec.shape} is declared; "
        "move the record away and run 'steptrace recover' to keep the steps before and after it"
    )
    raise DamagedTraceError(msg)
