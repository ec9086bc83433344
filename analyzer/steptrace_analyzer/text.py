"""Numbers and names as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steptrace_schema.human import one_line as one_line
from steptrace_schema.human import printable as printable

if TYPE_CHECKING:
    from collections.abc import Sequence


def shape_text(shape: Sequence[int | None]) -> str:
    """Write a layer's output shape.

    Examples
    --------
    >>> shape_text((None, 28, 28))
    'batch x 28 x 28'
    """
    return " x ".join("batch" if size is None else str(size) for size in shape)
