from __future__ import annotations

from typing import TYPE_CHECKING

from steptrace_analyzer.trace.dataflow import Dataflow

if TYPE_CHECKING:
    import xarray as xr


def test_tensors_are_sorted_as_a_step_produces_them(healthy: xr.DataTree) -> None:
    order = Dataflow.of(healthy)
    tensors = [(kind, path) for kind, paths in order.paths.items() for path in paths]
    names = [f"{kind}/{path}" for kind, path in sorted(tensors, key=lambda t: order.rank(*t))]
    expected = [
        "scalars/learning_rate",
        "inputs/x",
        "inputs/y",
        "inputs/sample_digest",
        "weights/sequential/dense/kernel",
        "weights/sequential/dense_1/bias",
        "probe/sequential/dense/preactivation",
        "activations/sequential/dense/output",
        "activations/sequential/dense_1/output",
        "scalars/loss",
        "activation_gradients/sequential/dense_1/output",
        "activation_gradients/sequential/dense/output",
        "inputs/x_gradient",
        "gradients/sequential/dense_1/bias",
        "gradients/sequential/dense/kernel",
        "updates/sequential/dense/kernel",
    ]
    assert [name for name in names if name in expected] == expected


def test_a_tensor_that_is_not_known_comes_last_in_its_kind() -> None:
    order = Dataflow({"weights": ["a", "b"]})
    assert order.rank("weights", "a") < order.rank("weights", "b") < order.rank("weights", "new")
