from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from steptrace_analyzer.trace.open import open_trace
from steptrace_analyzer.trace.select import get_tensor
from steptrace_analyzer.trace.updates import with_updates

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _weights(steps: list[int], values: Any) -> xr.DataTree:
    data = np.asarray(values, dtype="float32")
    return xr.DataTree.from_dict(
        {
            "/": xr.Dataset(attrs={"steptrace": {"run_id": "a"}}),
            "/weights": xr.Dataset(coords={"step": steps}),
            "/weights/dense": xr.Dataset({"bias": (("step", "out"), data)}),
        },
        name="run.zarr",
    )


def test_the_update_of_a_step_is_the_difference_to_the_next_weights() -> None:
    trace = with_updates(_weights([0, 1, 2], [[1, 2], [4, 8], [5, 5]]))
    updates = get_tensor(trace, "updates", "dense/bias")
    assert updates.step.values.tolist() == [0, 1]
    assert updates.values.tolist() == [[3, 6], [1, -3]]
    assert updates.dtype == np.float32
    assert trace.name == "run.zarr"
    assert trace.attrs == {"steptrace": {"run_id": "a"}}


def test_updates_exist_only_between_consecutive_steps() -> None:
    trace = with_updates(_weights([0, 1, 5, 6, 9], [[0], [1], [10], [12], [100]]))
    updates = get_tensor(trace, "updates", "dense/bias")
    assert updates.step.values.tolist() == [0, 5]
    assert updates.values.tolist() == [[1], [2]]


def test_infinite_weights_have_updates_that_are_not_numbers(tmp_path: Path) -> None:
    weights = _weights([0, 1], [[np.inf], [np.inf]]).chunk({"step": 1})
    updates = get_tensor(with_updates(weights), "updates", "dense/bias")
    assert np.isnan(updates.compute(scheduler="threads").values).all()


def test_without_consecutive_steps_there_are_no_updates() -> None:
    assert "updates" not in with_updates(_weights([0, 10, 20], [[0], [1], [2]])).children


def test_recorded_updates_are_left_alone() -> None:
    trace = _weights([0, 1], [[0], [1]])
    trace["updates/dense"] = xr.DataTree(xr.Dataset({"bias": (("step", "out"), [[7.0]])}))
    assert with_updates(trace) is trace


def test_updates_follow_the_sgd_formula(
    write_run: Callable[..., Path], make_run: Callable[..., Any]
) -> None:
    trace = open_trace(write_run(steps=20, shard_steps=8))  # the updates cross shards
    for step, arrays in list(make_run(steps=20).records())[:-1]:
        gradient = arrays["gradients/sequential/dense/kernel"]
        update = get_tensor(trace, "updates", "dense/kernel").sel(step=step).values
        np.testing.assert_allclose(update, -0.05 * gradient, atol=1e-6)


def test_updates_are_lazy(healthy: xr.DataTree) -> None:
    assert healthy["updates/sequential/dense/kernel"].chunks is not None
