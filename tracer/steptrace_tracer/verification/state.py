"""What a training holds at one moment, as digests."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class State:
    """What a training holds at one moment.

    Attributes
    ----------
    fit
        Number of the ``fit``, counted from 0.
    step
        How many updates the optimizer has done.
    digests
        Path and xxh3-64 of the bytes of each weight, then of each variable of the optimizer.
    """

    fit: int
    step: int
    digests: tuple[tuple[str, str], ...]
