"""How numbers of findings are written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def ratio_of(value: float, base: float) -> float:
    """Divide; infinite where the base is zero, as a loss may be.

    Examples
    --------
    >>> ratio_of(3.0, 2.0), ratio_of(3.0, 0.0)
    (1.5, inf)
    """
    return value / base if base else math.inf


def times(ratio: float) -> str:
    """Write a ratio.

    Examples
    --------
    >>> times(34.2), times(2.04), times(0.03)
    ('34 times', '2.0 times', '0.03 times')
    """
    if math.isinf(ratio):
        return "infinitely many times"
    if ratio >= 9.95:
        return f"{ratio:.0f} times" if ratio < 1e5 else f"{ratio:.1e} times"
    return f"{ratio:.1f} times" if ratio >= 0.095 else f"{ratio:.1g} times"


def number(value: float) -> str:
    """Write a number with three digits.

    Examples
    --------
    >>> number(0.30123), number(12345.6), number(91.04)
    ('0.301', '1.23e+04', '91')
    """
    return f"{value:.3g}"


def span(first: int, last: int) -> str:
    """Write a range of steps.

    Examples
    --------
    >>> span(3, 3), span(3, 9)
    ('step 3', 'steps 3 to 9')
    """
    return f"step {first}" if first == last else f"steps {first} to {last}"


def listed(names: Sequence[object], most: int = 4) -> str:
    """Write names one after the other.

    Examples
    --------
    >>> listed(["a", "b", "c"]), listed(list(range(9)))
    ('a, b and c', '0, 1, 2, 3 and 5 more')
    """
    texts = [str(name) for name in names]
    if len(texts) > most:
        texts = [*texts[:most], f"{len(texts) - most} more"]
    if len(texts) < 2:
        return "".join(texts)
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def plural(count: int, noun: str) -> str:
    """Write a count with its noun.

    Examples
    --------
    >>> plural(1, "step"), plural(3, "step")
    ('1 step', '3 steps')
    """
    return f"{count} {noun}" if count == 1 else f"{count:,} {noun}s"
