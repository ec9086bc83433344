"""The statistics against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steptrace_schema.names import STATISTIC_NAMES
from steptrace_schema.statistics.describe import (
    DEFINITIONS,
    QUANTILE_SAMPLE,
    compute_row_statistics,
    compute_statistics,
)

FINITE = hnp.arrays(
    np.float32,
    hnp.array_shapes(max_dims=3, max_side=20),
    elements=st.floats(-1e6, 1e6, width=32),
)


def named(values: np.ndarray) -> dict[str, float]:
    return dict(zip(STATISTIC_NAMES, compute_statistics(values).tolist(), strict=True))


def expected(values: np.ndarray) -> dict[str, float]:
    x = values.astype(np.float64).ravel()
    quantiles = {f"p{q:02d}": np.quantile(x, q / 100) for q in (1, 5, 25, 50, 75, 95, 99)}
    return {
        "mean": x.mean(),
        "std": x.std(),
        "min": x.min(),
        "max": x.max(),
        "l1": np.abs(x).sum(),
        "l2": np.linalg.norm(x),
        "zeros": (x == 0).sum(),
        "nan": 0,
        "inf": 0,
        **quantiles,
    }


@given(FINITE)
def test_finite_values_give_what_numpy_gives(values: np.ndarray) -> None:
    scale = float(np.abs(values).max()) + 1e-30
    found, wanted = named(values), expected(values)
    for name in STATISTIC_NAMES:
        assert found[name] == pytest.approx(wanted[name], rel=1e-9, abs=1e-9 * scale), name


def test_values_larger_than_one_block_are_merged_exactly() -> None:
    values = np.random.default_rng(0).normal(1000, 1, size=200_001).astype(np.float32)
    found = named(values)
    assert found["mean"] == pytest.approx(values.astype(np.float64).mean(), rel=1e-12)
    assert found["std"] == pytest.approx(values.astype(np.float64).std(), rel=1e-9)
    stride = -(-values.size // QUANTILE_SAMPLE)
    assert found["p50"] == np.median(values[::stride].astype(np.float64))


def test_nan_and_inf_are_counted_and_not_skipped() -> None:
    found = named(np.array([1.0, np.nan, np.inf, 0.0, -np.inf], dtype=np.float32))
    assert (found["nan"], found["inf"], found["zeros"]) == (1, 2, 1)
    assert np.isnan([found["mean"], found["l2"], found["min"], found["p50"]]).all()


@pytest.mark.parametrize("size", [100, 5_000])  # sorted, and selected
def test_one_nan_makes_every_percentile_nan(size: int) -> None:
    values = np.random.default_rng(0).normal(size=(2, size)).astype(np.float32)
    values[1, size // 3] = np.nan
    percentiles = [name.startswith("p") for name in STATISTIC_NAMES]
    found = compute_row_statistics(values)[:, percentiles]
    assert found.shape == (2, 7)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()


def test_an_empty_tensor_has_no_mean_and_no_elements() -> None:
    found = named(np.zeros((0, 3), dtype=np.float32))
    assert np.isnan(found["mean"])
    assert (found["l2"], found["zeros"], found["nan"]) == (0, 0, 0)


def test_integers_and_booleans_are_described_as_numbers() -> None:
    assert named(np.array([True, False, True]))["mean"] == pytest.approx(2 / 3)
    assert named(np.array([3, -4], dtype=np.int8))["l2"] == 5


def test_every_statistic_has_a_definition() -> None:
    assert tuple(DEFINITIONS) == STATISTIC_NAMES


@given(
    rows=st.integers(1, 40),
    n=st.one_of(st.integers(1, 300), st.sampled_from([8_192, 8_193, 16_385, 40_000])),
    dtype=st.sampled_from(["float32", "float64", "float16", "int32"]),
    seed=st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_a_row_among_many_has_the_same_bits_as_alone(
    rows: int, n: int, dtype: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(rows, n)) * 100).astype(dtype)
    if values.dtype.kind == "f":
        values[rng.random(values.shape) < 0.001] = rng.choice([np.nan, np.inf, 0])
    together = compute_row_statistics(values)
    alone = np.stack([compute_statistics(row) for row in values])
    assert together.tobytes() == alone.tobytes()


def test_the_statistics_of_a_difference_are_those_of_the_array() -> None:
    rng = np.random.default_rng(0)
    after, before = rng.normal(size=(2, 5, 300, 70)).astype(np.float32)
    assert np.array_equal(
        compute_row_statistics(after, before), compute_row_statistics(after - before)
    )


def test_equal_values_far_from_zero_do_not_vary() -> None:
    values = np.full(157_801, 237_317.23828125, np.float64)
    assert named(values)["std"] <= np.finfo(np.float64).eps * values[0]
    assert named(values)["l2"] == pytest.approx(values[0] * np.sqrt(values.size), rel=1e-12)
