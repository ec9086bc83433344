"""What a trace holds and what it lacks: arrays of any name, and reasons that can be read."""

from __future__ import annotations

import numpy as np
import xarray as xr

from steptrace_analyzer.cli.info import _missing_lines
from steptrace_analyzer.trace.select import get_tensor, has_tensor, tensor_paths
from steptrace_schema.format.attributes import Missing


def test_an_array_that_is_called_as_a_dimension_is_listed() -> None:
    steps = np.arange(2)
    group = xr.Dataset(
        {
            "saliency": (("step", "sample", "unit"), np.zeros((2, 3, 4))),
            "unit": (("step", "sample"), np.zeros((2, 3))),
        },
    )
    tree = xr.DataTree.from_dict(
        {"/probe_gradients": xr.Dataset(coords={"step": steps}), "/probe_gradients/dense": group}
    )
    assert "unit" not in tree["probe_gradients/dense"].data_vars  # which xarray lists alone
    found = tensor_paths(tree, "probe_gradients")
    assert sorted(found) == ["dense/saliency", "dense/unit"]
    for path in found:
        assert get_tensor(tree, "probe_gradients", path).dims[0] == "step"
    assert not has_tensor(tree, "probe_gradients", "step")  # a coordinate


def test_many_tensors_that_are_missing_for_one_reason_are_one_line() -> None:
    few = [Missing(kind="probe", path=f"p{n}", reason="not called") for n in range(2)]
    many = [Missing(kind="gradients", path=f"g{n}", reason="frozen") for n in range(9)]
    late = Missing(kind="gradients", path="late", reason="frozen", steps=(0, 1))
    assert list(_missing_lines([*few, *many, late])) == [
        "probe/p0: not called",
        "probe/p1: not called",
        "gradients/g0, gradients/g1, gradients/g2 and 6 more (all in --json): frozen",
        "gradients/late at steps 0-1: frozen",
    ]
