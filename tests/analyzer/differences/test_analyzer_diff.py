from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr

from steptrace_analyzer.differences import DiffResult, TensorDiff, diff, diff_steps, ulp_distance
from steptrace_analyzer.trace.open import open_trace
from steptrace_schema.errors import StepNotRecordedError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _trace(values: Any, steps: list[int] | None = None, dtype: str = "float32") -> xr.DataTree:
    data = np.asarray(values, dtype=dtype)
    steps = steps or list(range(len(data)))
    return xr.DataTree.from_dict(
        {
            "/weights": xr.Dataset(coords={"step": steps}),
            "/weights/dense": xr.Dataset({"bias": (("step", "out"), data)}),
        },
        name="run.zarr",
    )


def _only(result: DiffResult) -> TensorDiff:
    (tensor,) = result.tensors
    return tensor


def test_a_trace_does_not_differ_from_itself(healthy: xr.DataTree, healthy_path: Path) -> None:
    result = diff(healthy, open_trace(healthy_path))
    assert not result.differs
    assert result.first_difference is None
    assert {tensor.max_abs for tensor in result.tensors} == {0.0, None}
    kernel = next(t for t in result.tensors if t.name == "weights/sequential/dense/kernel")
    assert kernel.cosine == pytest.approx(1.0)
    assert kernel.max_ulp == 0
    assert kernel.elements == 61 * 6 * 5


def test_differences_equal_a_computation_by_hand() -> None:
    a, b = [[1.0, 2.0], [3.0, -4.0]], [[1.0, 2.5], [3.0, -2.0]]
    tensor = _only(diff(_trace(a), _trace(b)))
    assert tensor.max_abs == 2.0
    assert tensor.mean_abs == pytest.approx((0.5 + 2.0) / 4)
    assert tensor.max_rel == pytest.approx(2 / 4)
    assert tensor.mean_rel == pytest.approx((0.5 / 2.5 + 2 / 4) / 4)
    dot = 1 + 5 + 9 + 8
    assert tensor.cosine == pytest.approx(dot / math.sqrt(30) / math.sqrt(1 + 6.25 + 9 + 4))
    assert (tensor.differing, tensor.elements) == (2, 4)
    assert (tensor.first_step, tensor.worst_step, tensor.steps_differing) == (0, 1, 2)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_ulp_distance_counts_representable_numbers(dtype: str) -> None:
    kind = np.dtype(dtype).type
    start = kind(-1.5)
    value = start
    for _ in range(7):
        value = np.nextafter(value, kind(np.inf))
    tiny = np.finfo(dtype).smallest_subnormal
    a = np.array([start, -tiny, 0.0, -0.0], dtype=dtype)
    b = np.array([value, tiny, -0.0, tiny], dtype=dtype)
    assert ulp_distance(a, b).tolist() == [7, 2, 0, 1]
    assert ulp_distance(b, a).tolist() == [7, 2, 0, 1]


def test_the_ulp_distance_of_the_extremes_does_not_overflow() -> None:
    largest = np.array([np.finfo("float64").max])
    between = int.from_bytes(largest.byteswap().tobytes(), "big")
    assert int(ulp_distance(-largest, largest)[0]) == 2 * between


def test_nan_at_the_same_place_is_equal_and_elsewhere_differs() -> None:
    nan, inf = math.nan, math.inf
    same = _only(diff(_trace([[nan, inf, 1]]), _trace([[nan, inf, 1]])))
    assert not same.differs
    assert (same.non_finite_a, same.non_finite_b) == (2, 2)
    other = _only(diff(_trace([[nan, inf, 1]]), _trace([[1, -inf, nan]])))
    assert other.differing == 3
    assert other.max_abs == 0.0
    assert (other.non_finite_a, other.non_finite_b) == (2, 2)
    assert other.cosine is None


def test_elements_within_the_tolerance_do_not_differ() -> None:
    a, b = _trace([[1.0, 100.0]]), _trace([[1.001, 100.1]])
    assert _only(diff(a, b)).differing == 2
    assert _only(diff(a, b, rtol=2e-3)).differing == 0
    assert _only(diff(a, b, atol=0.01)).differing == 1
    assert diff(a, b, rtol=2e-3).differs is False


def test_a_tolerance_does_not_hide_a_lost_value() -> None:
    assert _only(diff(_trace([[1.0]]), _trace([[math.nan]]), atol=1e9)).differing == 1


def test_steps_are_matched_by_their_number() -> None:
    a = _trace([[0], [1], [2], [3]], steps=[0, 2, 4, 6])
    b = _trace([[1], [2], [9], [3]], steps=[2, 4, 5, 6])
    result = diff(a, b, names=("a", "b"))
    assert _only(result).differing == 0
    assert result.steps == (2, 4, 6)
    assert [(m.name, m.found) for m in result.mismatches] == [
        ("weights", "steps 0 only in a"),
        ("weights", "steps 5 only in b"),
    ]
    assert result.differs


def test_shapes_and_dtypes_that_differ_are_named() -> None:
    shape = diff(_trace([[1, 2]]), _trace([[1, 2, 3]]), names=("a", "b"))
    assert shape.tensors == ()
    assert shape.mismatches[0].found == "shape (2,) in a and (3,) in b"
    dtype = diff(_trace([[1, 2]]), _trace([[1, 2]], dtype="float64"), names=("a", "b"))
    assert dtype.mismatches[0].found == "dtype float32 in a and float64 in b"
    assert _only(dtype).max_ulp is None
    assert dtype.differs


def test_a_tensor_of_one_side_only_is_named(healthy: xr.DataTree, healthy_path: Path) -> None:
    del healthy.children["weights"].children["sequential"]["dense_1"]
    result = diff(healthy, open_trace(healthy_path), kinds=["weights"], names=("a", "b"))
    assert [(m.name, m.found) for m in result.mismatches] == [
        ("weights/sequential/dense_1/kernel", "only in b"),
        ("weights/sequential/dense_1/bias", "only in b"),
    ]


def test_whole_numbers_are_compared_exactly() -> None:
    large = 2**53
    tensor = _only(diff(_trace([[large]], dtype="int64"), _trace([[large + 1]], dtype="int64")))
    assert tensor.differing == 1
    assert tensor.max_ulp is None


def test_a_corrupted_batch_is_where_two_runs_part(
    healthy: xr.DataTree, write_run: Callable[..., Path]
) -> None:
    other = open_trace(write_run(input_scale={31: 40.0}))
    result = diff(healthy, other)
    first = result.first_difference
    assert first is not None
    assert (first.step, first.kind, first.path) == (31, "inputs", "x")
    weights = [t for t in result.tensors if t.kind == "weights"]
    assert {t.first_step for t in weights} == {32}
    assert {t.first_step for t in result.tensors if t.kind == "gradients"} == {31}


def test_the_clock_is_never_compared(healthy: xr.DataTree, healthy_path: Path) -> None:
    other = open_trace(healthy_path)
    other["scalars"] = other["scalars"].assign(wall_time=other["scalars/wall_time"] + 5)
    result = diff(healthy, other)
    assert not result.differs
    assert not any("time" in t.path or "duration" in t.path for t in result.tensors)


def test_blocks_of_a_long_trace_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 40, 7))
    whole = _only(diff(_trace(a, dtype="float64"), _trace(b, dtype="float64")))
    monkeypatch.setattr("steptrace_analyzer.differences.table._BLOCK_BYTES", 3 * 7 * 8)
    parts = _only(diff(_trace(a, dtype="float64"), _trace(b, dtype="float64")))
    assert parts.max_abs == whole.max_abs == np.abs(a - b).max()
    assert parts.mean_abs == pytest.approx(np.abs(a - b).mean())
    assert parts.cosine == pytest.approx(whole.cosine)
    assert parts.worst_step == whole.worst_step == int(np.abs(a - b).max(axis=1).argmax())


@pytest.mark.parametrize("equal", [False, True])
def test_parts_of_wide_rows_add_up(monkeypatch: pytest.MonkeyPatch, equal: bool) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 6, 101)).astype("f4")
    b = a.copy() if equal else b
    a[2, 5], b[2, 5] = np.nan, 1.0
    a[3, 7] = b[3, 7] = np.inf
    a[4, 9], b[4, 9] = 0.0, -0.0
    whole = diff(_trace(a), _trace(b))
    monkeypatch.setattr("steptrace_analyzer.differences.elements._TILE", 40)
    parts = diff(_trace(a), _trace(b))
    left, right = _only(whole), _only(parts)
    for field in dataclasses.fields(left):
        ours, theirs = getattr(left, field.name), getattr(right, field.name)
        assert ours == (pytest.approx(theirs, rel=1e-12) if isinstance(ours, float) else theirs)
    np.testing.assert_allclose(whole.by_step[0].distance, parts.by_step[0].distance, rtol=1e-12)
    finite = np.isfinite(a) & np.isfinite(b)
    apart = np.abs(a[finite].astype("f8") - b[finite])
    assert left.max_abs == apart.max()
    assert left.elements == a.size
    assert left.differing == int(((a != b) & ~(np.isnan(a) & np.isnan(b))).sum())
    assert np.isinf(whole.by_step[0].distance[2])
    assert np.isfinite(np.delete(whole.by_step[0].distance, 2)).all()
    size = np.sqrt(np.mean(np.where(finite, a.astype("f8"), 0) ** 2, axis=1))
    np.testing.assert_allclose(whole.by_step[0].size, size, rtol=1e-12)


def test_two_steps_of_one_trace_are_compared(
    healthy: xr.DataTree, make_run: Callable[..., Any]
) -> None:
    records = dict(make_run().records())
    expected = records[10]["weights/sequential/dense/kernel"].astype("float64")
    expected -= records[20]["weights/sequential/dense/kernel"]
    result = diff_steps(healthy, 10, 20)
    kernel = next(t for t in result.tensors if t.name == "weights/sequential/dense/kernel")
    assert kernel.max_abs == np.abs(expected).max()
    assert kernel.mean_abs == pytest.approx(np.abs(expected).mean())
    assert (result.a, result.b) == ("run.zarr step 10", "run.zarr step 20")
    assert kernel.first_step is None
    assert result.differs


def test_counters_and_digests_are_not_measured(healthy: xr.DataTree) -> None:
    result = diff_steps(healthy, 10, 40)
    compared = {tensor.name: tensor for tensor in result.tensors}
    assert not {"scalars/epoch", "scalars/batch", "scalars/wall_time"} & set(compared)
    digest = compared["inputs/sample_digest"]
    assert (digest.differing, digest.max_abs, digest.cosine) == (16, None, None)


def test_kinds_without_one_of_the_steps_are_said_to_be_left_out(healthy: xr.DataTree) -> None:
    result = diff_steps(healthy, 10, 60)
    assert {t.kind for t in result.tensors} == {"weights"}
    assert ("gradients", "step 60 is not recorded") in [
        (m.name, m.found) for m in result.not_compared
    ]


def test_a_step_that_no_kind_has_is_refused(healthy: xr.DataTree) -> None:
    with pytest.raises(StepNotRecordedError, match=r"step 99 of .* recorded are 0-59"):
        diff_steps(healthy, 10, 99)


def test_an_unknown_kind_is_refused(healthy: xr.DataTree) -> None:
    with pytest.raises(UnknownNameError, match="no kind of data 'weight'; the kinds are scalars"):
        diff(healthy, healthy, kinds=["weight"])  # type: ignore[list-item]
