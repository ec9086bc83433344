"""Sums of rows, compiled and by NumPy, against exact arithmetic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steptrace_schema.statistics._describe import row_sums as summed_by_vectors
from steptrace_schema.statistics.moments import (
    IS_COMPILED,
    compiled_sums,
    moments,
    numpy_sums,
    row_sums,
)

Array = npt.NDArray[Any]

_SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 100))
_FINITE = {"allow_nan": False, "allow_infinity": False}
_ROWS = st.sampled_from(["f4", "f8"]).flatmap(
    lambda dtype: hnp.arrays(
        dtype, _SHAPES, elements={"min_value": -1024, "max_value": 1024} | _FINITE
    )
)

SUMS = [compiled_sums, numpy_sums]


def test_the_compiled_sums_are_in_use() -> None:
    assert IS_COMPILED


@pytest.mark.parametrize("sums", SUMS)
@settings(max_examples=60)
@given(rows=_ROWS, with_minus=st.booleans())
def test_sums_are_those_of_exact_arithmetic(sums: Any, rows: Array, with_minus: bool) -> None:
    minus = rows[::-1].copy() if with_minus else None
    found = sums(rows, minus)
    values = rows if minus is None else rows - minus
    for row, got in zip(values.astype(np.float64), found, strict=True):
        size = math.fsum(abs(row))
        assert got[0] == pytest.approx(math.fsum(row), abs=1e-14 * size)
        assert got[1] == pytest.approx(math.fsum(v * v for v in row), rel=1e-14, abs=5e-324)
        assert got[2] == pytest.approx(size, rel=1e-14, abs=5e-324)
        assert got[3:].tolist() == [row.min(), row.max(), (row == 0).sum()]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 2_047, 2_049, 20_003])
def test_vectors_of_any_width_give_the_same_bits(dtype: str, n: int) -> None:
    rng = np.random.default_rng(n)
    rows = (rng.normal(size=(6, n)) * 10.0 ** rng.integers(-20, 20, (6, n))).astype(dtype)
    rows[0, ::3], rows[1, ::2], rows[2] = 0, -0.0, rng.choice([0.0, -0.0], n)
    rows[3, n // 2], rows[4, -1] = np.nan, -np.inf
    for minus in (None, rows[::-1].copy()):
        wide, narrow = np.empty((2, len(rows), 6))
        summed_by_vectors(rows, minus, wide, True)
        summed_by_vectors(rows, minus, narrow, False)
        assert wide.tobytes() == narrow.tobytes()


@pytest.mark.parametrize("sums", SUMS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("n", [1_023, 1_024, 2_048, 2_049, 20_003])
def test_long_rows_are_summed_block_by_block(sums: Any, dtype: str, n: int) -> None:
    rows = np.random.default_rng(n).normal(size=(2, n)).astype(dtype)
    rows[:, ::5] = 0
    for row, got in zip(rows.astype(np.float64), sums(rows, None), strict=True):
        expected = [math.fsum(row), math.fsum(row * row), math.fsum(abs(row))]
        assert got[:3] == pytest.approx(expected, rel=1e-12, abs=1e-12 * n)
        assert got[3:].tolist() == [row.min(), row.max(), (row == 0).sum()]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 7, 36])
def test_elements_that_are_not_finite_are_counted_and_spread(
    dtype: str, bad: float, place: int
) -> None:
    rows = np.random.default_rng(0).normal(size=(3, 37)).astype(dtype)
    rows[1, place] = bad
    with np.errstate(invalid="ignore"):
        found = moments(row_sums(rows, None), rows, None)
        expected = [
            rows.min(axis=1),
            rows.max(axis=1),
            np.isnan(rows).sum(1),
            np.isinf(rows).sum(1),
        ]
    np.testing.assert_array_equal(found[:, [2, 3, 7, 8]].T, expected)
    assert np.isfinite(found[[0, 2]]).all()
    assert not np.isfinite(found[1, 4])


@pytest.mark.parametrize("sums", SUMS)
def test_rows_longer_than_a_block_are_summed_whole(sums: Any) -> None:
    rows = np.ones((2, 20_003), np.float32)
    rows[1] = -0.5
    expected = [[20_003, 20_003, 20_003, 1, 1, 0], [-10_001.5, 5_000.75, 10_001.5, -0.5, -0.5, 0]]
    assert sums(rows, None).tolist() == expected


@pytest.mark.parametrize(
    ("values", "minus", "out"),
    [
        (np.zeros((2, 3), np.int32), None, (2, 6)),
        (np.zeros(3), None, (1, 6)),
        (np.zeros((2, 3)), np.zeros((2, 4)), (2, 6)),
        (np.zeros((2, 3)), np.zeros((2, 3), np.float32), (2, 6)),
        (np.zeros((2, 3)), None, (1, 6)),
    ],
)
def test_what_does_not_fit_is_refused(values: Array, minus: Array, out: tuple[int, int]) -> None:
    from steptrace_schema.statistics._describe import row_sums

    with pytest.raises((TypeError, ValueError)):
        row_sums(values, minus, np.zeros(out))
