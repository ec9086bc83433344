"""Telling how far a long task is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int], None]
"""Called with what is done and what there is to do in all."""


def untold(done: int, total: int) -> None:
    """Report nothing."""
