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


_TILE: Final = 2**15
"""Elements that are compared at once."""

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


class _RowSums:
    """What is known of the rows of one block."""

    def __init__(self, rows: int) -> None:
        self.squares, self.apart, self.farthest = np.zeros((3, rows))
        """Sums of squares of the first side and of the difference; the largest difference."""
        self.lost, self.differs = np.zeros((2, rows), bool)
        """Whether an element is finite on one side alone; whether any differs."""


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
        has_ulps = a.dtype == b.dtype and a.dtype.name in _ULP_TYPES
        if has_ulps and self.max_ulp is None:
            self.max_ulp = 0
        row = _RowSums(rows)
        # Parts of rows that stay in the processor's cache from one operation to the next.
        width = max(1, _TILE // rows)
        for start in range(0, a.shape[1], width):
            tile = slice(start, start + width)
            self._add_tile(a[:, tile], b[:, tile], tolerance, row, has_ulps=has_ulps)
        worst = int(np.argmax(row.farthest))
        if steps is not None:
            self._add_rows(steps, row, a.shape[1])
            if row.farthest[worst] > self.max_abs:
                self.worst_step = int(steps[worst])
            if self.first_step is None and row.differs.any():
                self.first_step = int(steps[int(np.argmax(row.differs))])
        self.max_abs = max(self.max_abs, float(row.farthest[worst]))
        self.squares_a += float(row.squares.sum())
        self.steps_differing += int(row.differs.sum())

    def _add_equal(self, values: npt.NDArray[Any], steps: npt.NDArray[np.int64] | None) -> bool:
        """Take in a block that is the same on both sides; False where not all of it is finite."""
        sums = row_sums(values, None)
        if not np.isfinite(sums).all():
            return False
        row = _RowSums(len(values))
        row.squares = sums[:, 1]
        total = float(row.squares.sum())
        self.elements += values.size
        self.finite += values.size
        self.max_ulp = self.max_ulp or 0
        self.dot += total
        self.squares_a += total
        self.squares_b += total
        if steps is not None:
            self._add_rows(steps, row, values.shape[1])
        return True

    def _add_rows(self, steps: npt.NDArray[np.int64], row: _RowSums, elements: int) -> None:
        """Take in the root mean squares of each row, and of its difference."""
        count = max(1, elements)
        self.steps.append(steps)
        self.sizes.append(np.sqrt(row.squares / count))
        self.distances.append(np.where(row.lost, np.inf, np.sqrt(row.apart / count)))

    def _add_tile(
        self,
        a: npt.NDArray[Any],
        b: npt.NDArray[Any],
        tolerance: Tolerance,
        row: _RowSums,
        *,
        has_ulps: bool,
    ) -> None:
        """Take in some columns of both sides, (row, element)."""
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        finite_a, finite_b = np.isfinite(wide_a), np.isfinite(wide_b)
        finite = finite_a & finite_b
        all_finite = bool(finite.all())
        unequal = np.asarray(a != b)
        if not all_finite:
            unequal &= ~(np.isnan(wide_a) & np.isnan(wide_b))
            wide_a[~finite] = 0.0
            wide_b[~finite] = 0.0
            row.lost |= (unequal & ~finite).any(axis=1)
        self.elements += a.size
        self.finite += int(finite.sum())
        self.non_finite_a += int(a.size - finite_a.sum())
        self.non_finite_b += int(b.size - finite_b.sum())
        with np.errstate(over="ignore", invalid="ignore"):
            # Not by BLAS, which starts threads that here only wait for each other.
            self.dot += float(np.einsum("ij,ij->", wide_a, wide_b))
            self.squares_b += float(np.einsum("ij,ij->", wide_b, wide_b))
            row.squares += np.einsum("ij,ij->i", wide_a, wide_a)
            if not unequal.any():
                return
            apart = np.abs(wide_a - wide_b)
            row.apart += np.einsum("ij,ij->i", apart, apart)
        size = np.maximum(np.abs(wide_a), np.abs(wide_b))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            relative = apart / size
            self.sum_abs += float(apart.sum())
        if not size.all():
            relative[size == 0] = 0.0
        row.farthest = np.maximum(row.farthest, apart.max(axis=1))
        self.max_rel = max(self.max_rel, float(relative.max()))
        self.sum_rel += float(relative.sum())
        if has_ulps:
            ours, theirs = (a, b) if all_finite else (a[finite], b[finite])
            self.max_ulp = max(self.max_ulp or 0, int(ulp_distance(ours, theirs).max(initial=0)))
        if not tolerance.is_exact:
            unequal &= ~tolerance.within(a, b, finite, apart, size)
        row.differs |= unequal.any(axis=1)
        self.differing += int(unequal.sum())

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
    low, high = (_ordered(values, signed, unsigned) for values in (a, b))
    if low.dtype == np.int64:
        return np.asarray(np.abs(low - high).astype(unsigned))
    return np.asarray(np.where(low > high, low - high, high - low))


def _ordered(values: npt.NDArray[Any], signed: type, unsigned: type) -> npt.NDArray[Any]:
    """Return integers in the order of floating-point numbers, +0 and -0 the same."""
    bits: npt.NDArray[Any] = np.ascontiguousarray(values).view(signed)
    if bits.dtype.itemsize < 8:  # their differences fit into 64 bits
        wide = bits.astype(np.int64)
        return np.where(wide < 0, np.iinfo(signed).min - wide, wide)
    bias = np.array(1, unsigned) << np.array(63, unsigned)
    whole: npt.NDArray[Any] = bits.view(unsigned)
    return np.where(bits < 0, bias - (whole - bias), bias + whole)
