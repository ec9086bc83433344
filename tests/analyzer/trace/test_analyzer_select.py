from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from steptrace_analyzer.trace.select import (
    format_steps,
    get_tensor,
    layer_paths,
    nearest_names,
    resolve_layer,
    resolve_step,
    resolve_tensor,
    tensor_paths,
)
from steptrace_schema.errors import StepNotRecordedError, UnknownNameError

if TYPE_CHECKING:
    import xarray as xr


def test_tensors_come_in_the_order_of_the_model(healthy: xr.DataTree) -> None:
    assert tensor_paths(healthy, "weights") == [
        "sequential/dense/kernel",
        "sequential/dense/bias",
        "sequential/dense_1/kernel",
        "sequential/dense_1/bias",
    ]
    assert tensor_paths(healthy, "updates") == tensor_paths(healthy, "weights")
    assert layer_paths(healthy, "probe") == ["sequential/dense"]
    assert sorted(tensor_paths(healthy, "inputs")) == ["sample_digest", "x", "x_gradient", "y"]
    assert "metrics/accuracy" in tensor_paths(healthy, "scalars")


def test_a_layer_is_found_by_its_last_segment_or_by_its_path(healthy: xr.DataTree) -> None:
    assert resolve_layer(healthy, "weights", "dense") == "sequential/dense"
    assert resolve_layer(healthy, "activations", "sequential/dense_1") == "sequential/dense_1"
    assert resolve_tensor(healthy, "weights", "dense_1/bias") == "sequential/dense_1/bias"


def test_an_unknown_layer_suggests_near_names_and_lists_all(healthy: xr.DataTree) -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve_layer(healthy, "weights", "dense_2")
    assert str(caught.value) == (
        "run.zarr has no layer 'dense_2' of kind 'weights' (did you mean 'sequential/dense_1' or "
        "'sequential/dense'?); it has sequential/dense, sequential/dense_1"
    )


def test_an_ambiguous_name_lists_its_meanings(healthy: xr.DataTree) -> None:
    with pytest.raises(UnknownNameError, match=r"several tensors.*dense/kernel, .*dense_1/kernel"):
        resolve_tensor(healthy, "weights", "kernel")


def test_a_kind_that_the_trace_lacks_says_what_there_is(healthy: xr.DataTree) -> None:
    del healthy["gradients"]
    with pytest.raises(UnknownNameError, match=r"no layers of kind 'gradients'; it has .*weights"):
        resolve_layer(healthy, "gradients", "dense")


def test_a_tensor_carries_the_steps_of_its_kind(healthy: xr.DataTree) -> None:
    kernel = get_tensor(healthy, "weights", "dense/kernel")
    assert kernel.dims == ("step", "in", "out")
    assert kernel.step.values.tolist() == list(range(61))


def test_a_negative_step_counts_from_the_last_recorded_one(healthy: xr.DataTree) -> None:
    assert resolve_step(healthy["weights"], -1) == 60
    assert resolve_step(get_tensor(healthy, "gradients", "dense/kernel"), -1) == 59
    assert resolve_step(healthy["gradients"], 7) == 7


@pytest.mark.parametrize("step", [61, -62, 1000])
def test_a_step_that_is_not_recorded_says_which_are(healthy: xr.DataTree, step: int) -> None:
    with pytest.raises(StepNotRecordedError) as caught:
        resolve_step(healthy["weights"], step)
    assert str(caught.value) == f"step {step} of 'weights' is not recorded; recorded are 0-60"


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([], ""),
        ([5], "5"),
        (list(range(100)), "0-99"),
        (list(range(0, 100, 10)), "0, 10, ..., 90"),
        ([*range(10), *range(20, 30), 35], "0-9, 20-29, 35"),
        ([0, 2, 5, 9, 14, 20, 27], "0, 2, 5, 9, ..., 27"),
        ([0, 10, 20], "0, 10, 20"),
    ],
)
def test_steps_are_written_compactly(steps: list[int], text: str) -> None:
    assert format_steps(steps) == text


def test_near_names_are_compared_by_last_segment_too() -> None:
    known = ["model/conv2d", "model/conv2d_1", "model/flatten"]
    assert nearest_names("conv", known)[0] == "model/conv2d"
    assert nearest_names("xyz", known) == []
