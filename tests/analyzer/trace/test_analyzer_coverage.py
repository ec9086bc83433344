"""Arrays that are called as one of their group's dimensions are arrays all the same."""

from __future__ import annotations

import numpy as np
import xarray as xr

from steptrace_analyzer.trace.select import tensor_paths


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
