"""How many bytes may be made of the bytes that are there.

A few bytes can claim to be gigabytes: a chunk of equal numbers, a shard whose index names one chunk
a million times, rows that a journal declares and no record has. What is made of a trace is bounded
by a multiple of what is stored, generous for equal numbers, which compress to a 255th by lz4.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

ONCE: Final = 256 * 2**20
"""Bytes that are made at once of however few."""
ONCE_RATIO: Final = 64
"""And so many for each stored byte."""
TOTAL: Final = 4 * 2**30
"""Bytes that are made in all of however few."""
TOTAL_RATIO: Final = 300
"""And so many for each stored byte."""


TRUST_VARIABLE: Final = "STEPTRACE_TRUST"
"""Environment variable that lifts the bounds, where it is ``1``."""

_ADVICE: Final = (
    f"if you have recorded it yourself, set the environment variable {TRUST_VARIABLE}=1"
)


def _is_trusted() -> bool:
    return os.environ.get(TRUST_VARIABLE) == "1"


class Expansion:
    """Counts what is made of stored bytes; any thread may use it.

    Parameters
    ----------
    once
        Bytes that are made at once of however few.
    """

    def __init__(self, once: int = ONCE) -> None:
        self._once = once
        self._made = 0
        self._stored = 0
        self._lock = threading.Lock()

    def take_together(self, made: Sequence[int], stored: int) -> None:
        """Count several things, of so many bytes, that the same `stored` bytes become.

        Raises
        ------
        ValueError
            If they may not.
        """
        for each in made:
            refuse_at_once(each, stored, self._once)
        self._count(sum(made), stored)

    def take(self, made: int, stored: int) -> None:
        """Count `made` bytes that `stored` ones become.

        Raises
        ------
        ValueError
            If that is more than they may, at once or with all before; then nothing must be made.
        """
        refuse_at_once(made, stored, self._once)
        self._count(made, stored)

    def _count(self, made: int, stored: int) -> None:
        with self._lock:
            self._made += made
            self._stored += stored
            if self._made > TOTAL + TOTAL_RATIO * self._stored and not _is_trusted():
                msg = (
                    f"{self._stored} stored bytes become more than {TOTAL} and {TOTAL_RATIO} times "
                    f"as many; {_ADVICE}"
                )
                raise ValueError(msg)


def refuse_at_once(made: int, stored: int, once: int = ONCE) -> None:
    """Make sure that `stored` bytes may become `made` ones, in memory at one time.

    Parameters
    ----------
    made, stored
        Bytes.
    once
        So many are made of however few.

    Raises
    ------
    ValueError
        If they may not.
    """
    if made > once + ONCE_RATIO * stored and not _is_trusted():
        msg = (
            f"{stored} stored bytes would become {made} at once, more than {once} and "
            f"{ONCE_RATIO} times as many; {_ADVICE}"
        )
        raise ValueError(msg)
