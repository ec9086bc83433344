"""How far apart two tensors may be and still count as equal."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_analyzer.differences.elements import ulp_distance

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class Allowed:
    """How far two elements may be apart to count as equal: within any of these.

    Attributes
    ----------
    rtol, atol
        ``|a - b| <= atol + rtol * max(|a|, |b|)``.
    ulp
        Representable numbers between the two.
    """

    rtol: float = 0.0
    atol: float = 0.0
    ulp: int = 0

    @property
    def is_exact(self) -> bool:
        """Whether only equal bits are equal."""
        return not (self.rtol or self.atol or self.ulp)

    def covers(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
        """Whether every element of two arrays of one shape counts as equal."""
        if self.is_exact:
            return False
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(wide_a) & np.isfinite(wide_b)
        same = (wide_a == wide_b) | (np.isnan(wide_a) & np.isnan(wide_b))
        with np.errstate(invalid="ignore", over="ignore"):
            size = np.maximum(np.abs(wide_a), np.abs(wide_b))
            within = finite & (np.abs(wide_a - wide_b) <= self.atol + self.rtol * size)
        if self.ulp and a.dtype == b.dtype and a.dtype.kind == "f":
            near = np.zeros(a.shape, bool)
            near[finite] = ulp_distance(a[finite], b[finite]) <= self.ulp
            within |= near
        return bool((same | within).all())
