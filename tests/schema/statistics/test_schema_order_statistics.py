"""Order statistics, compiled and by sorting, against sorted rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steptrace_schema.statistics.order_statistics import (
    IS_COMPILED,
    compiled_order_statistics,
    order_statistics,
    sorted_order_statistics,
)

Array = npt.NDArray[Any]

WAYS = [compiled_order_statistics, sorted_order_statistics, order_statistics]

_ROWS = st.sampled_from(["f4", "f8"]).flatmap(
    lambda dtype: hnp.arrays(dtype, st.tuples(st.integers(1, 3), st.integers(1, 60)))
)


def test_the_compiled_ones_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert IS_COMPILED
    monkeypatch.setattr("steptrace_schema.statistics.order_statistics._compiled", None)
    with pytest.raises(TypeError, match="not callable"):
        order_statistics(np.zeros((1, 1_025), np.float32), np.array([0]))


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=200)
@given(rows=_ROWS, data=st.data())
def test_elements_are_those_of_the_sorted_row(way: Any, rows: Array, data: st.DataObject) -> None:
    last = rows.shape[1] - 1
    ranks = np.array(sorted(data.draw(st.lists(st.integers(0, last), max_size=64))), np.intp)
    expected = np.sort(rows, axis=1)[:, ranks]
    found = way(rows.copy(), ranks)
    assert found.dtype == rows.dtype
    np.testing.assert_array_equal(found, expected)  # NaN is equal to NaN, -0.0 to 0.0


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
        "all bit patterns": bits,
        "not a number": np.where(normal > 2, np.array(-np.nan, dtype), normal),
        "nearly one value": near,
        "one value": np.full_like(normal, -3.5),
        "infinite": np.where(abs(normal) > 1, np.inf * normal, normal),
    }


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", list(_long_rows("f4")))
@pytest.mark.parametrize("length", [1_025, 4_095, 4_096, 20_003])
def test_long_rows_are_as_if_sorted(dtype: str, name: str, length: int) -> None:
    rows = np.ascontiguousarray(_long_rows(dtype)[name][:, :length])
    ranks = np.linspace(0, length - 1, 64).astype(np.intp)
    expected = np.sort(rows, axis=1)[:, ranks]
    np.testing.assert_array_equal(compiled_order_statistics(rows, ranks), expected)


@pytest.mark.parametrize(
    ("rows", "ranks", "out"),
    [
        (np.zeros((2, 3), np.int32), [0], (2, 1)),
        (np.zeros((2, 3), ">f4"), [0], (2, 1)),
        (np.zeros(3), [0], (1, 1)),
        (np.zeros((2, 3)), [3], (2, 1)),
        (np.zeros((2, 3)), [-1], (2, 1)),
        (np.zeros((2, 3)), [1, 0], (2, 2)),
        (np.zeros((2, 99)), [*range(65)], (2, 65)),
        (np.zeros((2, 3)), [0], (2, 2)),
        (np.zeros((2, 3)), [0], (1, 1)),
    ],
)
def test_what_does_not_fit_is_refused(rows: Array, ranks: list[int], out: tuple[int, int]) -> None:
    from steptrace_schema.statistics._order_statistics import order_statistics as compiled

    with pytest.raises(ValueError, match="do not fit"):
        compiled(rows, np.array(ranks, np.intp), np.zeros(out, rows.dtype))


def test_ranks_of_another_type_are_refused() -> None:
    from steptrace_schema.statistics._order_statistics import order_statistics as compiled

    with pytest.raises(ValueError, match="do not fit"):
        compiled(np.zeros((2, 3)), np.array([0], np.int32), np.zeros((2, 1)))
