"""Comparing two arrays of one shape, block by block, in states that add up."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_schema.statistics.moments import row_sums

if TYPE_CHECKING:
    import numpy.typing as npt

_ULP_TYPES: Final[dict[str, tuple[type, type]]] = {
    "float16": (np.int16, np.uint16),
    "float32": (np.int32, np.uint32),
    "float64": (np.int64, np.uint64),
}


_SUMMED: Final = frozenset({"float32", "float64"})


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How far two elements may be apart to count as equal: within any of these.

    Attributes
    ----------
    rtol, atol
        ``|a - b| <= atol + rtol * max(|a|, |b|)``.
    ulp
        Representable numbers between the two, where both are of one floating-point type.
    """

    rtol: float = 0.0
    atol: float = 0.0
    ulp: int = 0

    @property
    def is_exact(self) -> bool:
        """Whether only equal elements are equal."""
        return not (self.rtol or self.atol or self.ulp)

    def within(
        self,
        a: npt.NDArray[Any],
        b: npt.NDArray[Any],
        finite: npt.NDArray[np.bool_],
        apart: npt.NDArray[np.float64],
        size: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.bool_]:
        """Return which elements are finite on both sides and count as equal.

        Parameters
        ----------
        a, b
            The elements, of one shape.
        finite
            Which are finite on both sides.
        apart, size
            Their absolute difference, and the larger magnitude.
        """
        found = finite & (apart <= self.atol + self.rtol * size)
        if self.ulp and a.dtype == b.dtype and a.dtype.name in _ULP_TYPES:
            near = np.zeros(a.shape, bool)
            near[finite] = ulp_distance(a[finite], b[finite]) <= self.ulp
            found |= near
        return found

    def covers(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
        """Whether every element of two arrays of one shape counts as equal, by a tolerance."""
        if self.is_exact:
            return False
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(wide_a) & np.isfinite(wide_b)
        same = (wide_a == wide_b) | (np.isnan(wide_a) & np.isnan(wide_b))
        with np.errstate(invalid="ignore", over="ignore"):
            size = np.maximum(np.abs(wide_a), np.abs(wide_b))
            within = self.within(a, b, finite, np.abs(wide_a - wide_b), size)
        return bool((same | within).all())


@dataclasses.dataclass
class Accumulated:
    """What is known about a pair of arrays after some of their blocks.

    Differences, cosine and ULPs are over the elements that are finite on both sides, in float64.
    NaN against NaN at the same place is equal, and so is an infinity against the same infinity.
    """

    elements: int = 0
    finite: int = 0
    differing: int = 0
    max_abs: float = 0.0
    sum_abs: float = 0.0
    max_rel: float = 0.0
    sum_rel: float = 0.0
    dot: float = 0.0
    squares_a: float = 0.0
    squares_b: float = 0.0
    max_ulp: int | None = None
    non_finite_a: int = 0
    non_finite_b: int = 0
    worst_step: int | None = None
    first_step: int | None = None
    steps_differing: int = 0
    steps: list[npt.NDArray[np.int64]] = dataclasses.field(default_factory=list)
    distances: list[npt.NDArray[np.float64]] = dataclasses.field(default_factory=list)
    sizes: list[npt.NDArray[np.float64]] = dataclasses.field(default_factory=list)

    def add(
        self,
        a: npt.NDArray[Any],
        b: npt.NDArray[Any],
        steps: npt.NDArray[np.int64] | None,
        tolerance: Tolerance,
    ) -> None:
        """Take in one block.

        Parameters
        ----------
        a, b
            Same shape; (step, ...) where `steps` is given.
        steps
            The steps of the rows, ascending; None for arrays without steps.
        tolerance
            What counts as equal.
        """
        rows = len(a) if steps is not None else 1
        a, b = a.reshape(rows, -1), b.reshape(rows, -1)
        if _have_equal_bits(a, b) and self._add_equal(a, steps):
            return
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        finite_a, finite_b = np.isfinite(wide_a), np.isfinite(wide_b)
        unequal = np.asarray((a != b) & ~(np.isnan(wide_a) & np.isnan(wide_b)))
        finite = finite_a & finite_b
        if not finite.all():
            wide_a[~finite] = 0.0
            wide_b[~finite] = 0.0
        self.elements += a.size
        self.finite += int(finite.sum())
        self.non_finite_a += int(a.size - finite_a.sum())
        self.non_finite_b += int(b.size - finite_b.sum())
        has_ulps = a.dtype == b.dtype and a.dtype.name in _ULP_TYPES
        if has_ulps and self.max_ulp is None:
            self.max_ulp = 0
        with np.errstate(over="ignore", invalid="ignore"):
            self.dot += float(np.vdot(wide_a, wide_b))
            squares = np.einsum("ij,ij->i", wide_a, wide_a)
            self.squares_a += float(squares.sum())
            self.squares_b += float(np.vdot(wide_b, wide_b))
            apart = np.abs(wide_a - wide_b) if unequal.any() else None
            if steps is not None:
                lost = np.asarray((unequal & ~finite).any(axis=1))
                self._add_rows(steps, squares, apart, lost, a.shape[1])
        if apart is None:
            return
        size = np.maximum(np.abs(wide_a), np.abs(wide_b))
        self._add_distances(apart, size, steps)
        if has_ulps:
            distance = ulp_distance(a[finite], b[finite])
            self.max_ulp = max(self.max_ulp or 0, int(distance.max(initial=0)))
        if not tolerance.is_exact:
            unequal &= ~tolerance.within(a, b, finite, apart, size)
        by_row = unequal.any(axis=1)
        self.differing += int(unequal.sum())
        self.steps_differing += int(by_row.sum())
        if steps is not None and self.first_step is None and by_row.any():
            self.first_step = int(steps[int(np.argmax(by_row))])

    def _add_equal(self, values: npt.NDArray[Any], steps: npt.NDArray[np.int64] | None) -> bool:
        """Take in a block that is the same on both sides; False where not all of it is finite."""
        sums = row_sums(values, None)
        if not np.isfinite(sums).all():
            return False
        squares = sums[:, 1]
        self.elements += values.size
        self.finite += values.size
        self.max_ulp = self.max_ulp or 0
        for name in ("dot", "squares_a", "squares_b"):
            setattr(self, name, getattr(self, name) + float(squares.sum()))
        if steps is not None:
            none_lost = np.zeros(len(values), bool)
            self._add_rows(steps, squares, None, none_lost, values.shape[1])
        return True

    def _add_rows(
        self,
        steps: npt.NDArray[np.int64],
        squares: npt.NDArray[np.float64],
        apart: npt.NDArray[np.float64] | None,
        lost: npt.NDArray[np.bool_],
        elements: int,
    ) -> None:
        """Take in the root mean squares of each row, and of its difference."""
        count = max(1, elements)
        self.steps.append(steps)
        self.sizes.append(np.sqrt(squares / count))
        if apart is None:
            self.distances.append(np.zeros(len(steps)))
            return
        found = np.sqrt(np.einsum("ij,ij->i", apart, apart) / count)
        self.distances.append(np.where(lost, np.inf, found))

    def _add_distances(
        self,
        apart: npt.NDArray[np.float64],
        size: npt.NDArray[np.float64],
        steps: npt.NDArray[np.int64] | None,
    ) -> None:
        """Take in absolute differences and the larger magnitudes, (row, element)."""
        relative = np.divide(apart, size, out=np.zeros_like(apart), where=size > 0)
        by_row = apart.max(axis=1, initial=0.0)
        worst = int(np.argmax(by_row))
        if steps is not None and by_row[worst] > self.max_abs:
            self.worst_step = int(steps[worst])
        self.max_abs = max(self.max_abs, float(by_row[worst]))
        self.sum_abs += float(apart.sum())
        self.max_rel = max(self.max_rel, float(relative.max(initial=0.0)))
        self.sum_rel += float(relative.sum())

    @property
    def mean_abs(self) -> float | None:
        """Mean absolute difference; None without elements that are finite on both sides."""
        return self.sum_abs / self.finite if self.finite else None

    @property
    def mean_rel(self) -> float | None:
        """Mean relative difference; None without elements that are finite on both sides."""
        return self.sum_rel / self.finite if self.finite else None

    @property
    def cosine(self) -> float | None:
        """Cosine similarity over all elements; None where one side has no length."""
        if not self.squares_a or not self.squares_b:
            return None
        cosine = self.dot / math.sqrt(self.squares_a) / math.sqrt(self.squares_b)
        return max(-1.0, min(1.0, cosine))


def _have_equal_bits(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Whether two arrays of numbers that :func:`row_sums` takes are equal bit by bit."""
    if a.dtype != b.dtype or a.dtype.name not in _SUMMED or a.size == 0:
        return False
    whole = np.dtype(f"u{a.dtype.itemsize}")
    return np.array_equal(np.ascontiguousarray(a).view(whole), np.ascontiguousarray(b).view(whole))


def ulp_distance(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return how many representable numbers lie between `a` and `b`, counting one end.

    Read as integers, floating-point numbers of one sign are in order, so the distance is a
    difference of integers (IEEE 754-2019, 3.4; Dawson, "Comparing Floating Point Numbers").

    Parameters
    ----------
    a, b
        Finite; the same dtype, one of float16, float32, float64.

    Returns
    -------
    numpy.ndarray
        Unsigned integers as wide as the dtype; +0 and -0 are 0 apart.

    Examples
    --------
    >>> ulp_distance(np.float32([1, -0.0]), np.nextafter(np.float32([1, 0]), np.float32([2, 0])))
    array([1, 0], dtype=uint32)
    """
    signed, unsigned = _ULP_TYPES[a.dtype.name]
    bias = np.array(1, unsigned) << np.array(np.dtype(unsigned).itemsize * 8 - 1, unsigned)

    def ordered(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        bits: npt.NDArray[Any] = np.ascontiguousarray(values).view(unsigned)
        negative = np.ascontiguousarray(values).view(signed) < 0
        return np.where(negative, bias - (bits - bias), bias + bits)

    low, high = ordered(a), ordered(b)
    return np.asarray(np.where(low > high, low - high, high - low))
