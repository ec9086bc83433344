"""Statistics of rows, compiled and by NumPy; percentiles against sorted rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steptrace_schema.names import STATISTIC_NAMES
from steptrace_schema.statistics.describe import (
    compiled_statistics,
    compute_row_statistics,
    numpy_statistics,
)

Array = npt.NDArray[Any]

QUANTILES = np.array([0.01, 0.05, 0.25, 0.50, 0.75, 0.95, 0.99])
WAYS = [compiled_statistics, numpy_statistics]

_ROWS = st.sampled_from(["f4", "f8"]).flatmap(
    lambda dtype: hnp.arrays(dtype, st.tuples(st.integers(1, 3), st.integers(1, 60)))
)


def _percentiles(rows: Array) -> Array:
    """Return the percentiles of the sorted rows, by linear interpolation; NaN where one is NaN."""
    ordered = np.sort(rows.astype(np.float64), axis=1)
    position = QUANTILES * (rows.shape[1] - 1)
    below = np.floor(position).astype(int)
    low, high = ordered[:, below], ordered[:, np.minimum(below + 1, rows.shape[1] - 1)]
    weight = position - below
    found = np.where(weight < 0.5, low + (high - low) * weight, high - (high - low) * (1 - weight))
    return np.where(np.isnan(rows).any(axis=1, keepdims=True), np.nan, found)


def test_the_compiled_statistics_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steptrace_schema.statistics.describe._compiled", None)
    with pytest.raises(TypeError, match="not callable"):
        compute_row_statistics(np.zeros((1, 1_025), np.float32))


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=200)
@given(rows=_ROWS, stride=st.integers(1, 9), with_minus=st.booleans())
def test_percentiles_are_those_of_the_sorted_row(
    way: Any, rows: Array, stride: int, with_minus: bool
) -> None:
    minus = rows[::-1].copy() if with_minus else None
    values = rows if minus is None else rows - minus
    found = way(rows, minus, stride)
    np.testing.assert_array_equal(found[:, 9:], _percentiles(values[:, ::stride]))


def _long_rows(dtype: str) -> dict[str, Array]:
    chance = np.random.default_rng(0)
    normal = chance.normal(size=(2, 20_003)).astype(dtype)
    few = chance.integers(-2, 3, size=normal.shape).astype(dtype)
    bits = chance.integers(0, 256, (*normal.shape, normal.itemsize), np.uint8).view(dtype)[..., 0]
    # Alike in all but the last bits, so that no digit but the last tells them apart.
    near = np.nextafter(np.ones_like(normal), np.where(normal > 0, 2, 0).astype(dtype))
    return {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "few values": few,
        "all bit patterns": np.where(np.isnan(bits), np.array(1, dtype), bits),
        "not a number": np.where(normal > 2, np.array(-np.nan, dtype), normal),
        "nearly one value": near,
        "one value": np.full_like(normal, -3.5),
        "infinite": np.where(abs(normal) > 1, np.inf * normal, normal),
    }


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", list(_long_rows("f4")))
@pytest.mark.parametrize("length", [1_025, 4_095, 4_096, 20_003])
def test_percentiles_of_long_rows_are_as_if_sorted(dtype: str, name: str, length: int) -> None:
    rows = np.ascontiguousarray(_long_rows(dtype)[name][:, :length])
    found = compiled_statistics(rows, None, 1)[:, 9:]
    np.testing.assert_array_equal(found, _percentiles(rows))


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", list(_long_rows("f4")))
@pytest.mark.parametrize("with_minus", [False, True])
def test_both_ways_describe_the_same(dtype: str, name: str, with_minus: bool) -> None:
    rows = _long_rows(dtype)[name]
    minus = np.ascontiguousarray(rows[:, ::-1]) if with_minus else None
    found, expected = (way(rows, minus, 2) for way in WAYS)
    size = np.abs(expected[:, STATISTIC_NAMES.index("l1")]) / rows.shape[1]
    for column, of_one, of_other in zip(STATISTIC_NAMES, found.T, expected.T, strict=True):
        for one, other, most in zip(of_one, of_other, size, strict=True):
            assert one == pytest.approx(other, rel=1e-10, abs=1e-12 * most, nan_ok=True), column


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_small_deviation_around_a_large_mean_is_not_lost(way: Any, dtype: str) -> None:
    rows = np.full((3, 1_003), 4096.0, dtype)
    rows[1, ::2] += 1 / 64
    rows[2] = 0.1  # which is rounded: its deviations are exactly zero all the same
    found = way(rows, None, 1)[:, STATISTIC_NAMES.index("std")]
    assert found == pytest.approx(rows.astype(np.float64).std(axis=1), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    ("rows", "quantiles", "stride", "width"),
    [
        (np.zeros((2, 3), np.int32), [0.5], 1, 10),
        (np.zeros((2, 3), ">f4"), [0.5], 1, 10),
        (np.zeros(3), [0.5], 1, 10),
        (np.zeros((2, 0)), [0.5], 1, 10),
        (np.zeros((2, 3)), [0.5], 0, 10),
        (np.zeros((2, 3)), [0.5], -1, 10),
        (np.zeros((2, 3)), [1.5], 1, 10),
        (np.zeros((2, 3)), [-0.5], 1, 10),
        (np.zeros((2, 3)), [np.nan], 1, 10),
        (np.zeros((2, 3)), [0.5, 0.4], 1, 11),
        (np.zeros((2, 3)), [0.5] * 17, 1, 26),
        (np.zeros((2, 3)), [0.5], 1, 11),
        (np.zeros((2, 3)), np.array([1]), 1, 10),
        (np.zeros((2, 3)), np.array([[0.5]]), 1, 10),
    ],
)
def test_what_does_not_fit_is_refused(rows: Array, quantiles: Any, stride: int, width: int) -> None:
    from steptrace_schema.statistics._describe import describe_rows

    with pytest.raises((TypeError, ValueError), match=r"do not fit|two dimensions"):
        describe_rows(rows, None, stride, np.array(quantiles), np.zeros((2, width)))


@pytest.mark.parametrize("minus", [np.zeros((2, 4)), np.zeros((2, 3), np.float32), np.zeros(6)])
def test_what_cannot_be_subtracted_is_refused(minus: Array) -> None:
    from steptrace_schema.statistics._describe import describe_rows

    with pytest.raises(ValueError, match="do not fit"):
        describe_rows(np.zeros((2, 3)), minus, 1, np.array([0.5]), np.zeros((2, 10)))
