"""The gradients of all layers with respect to the input, one above the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from journals import write_journal
from steptrace_analyzer import open_trace, total_gradient
from steptrace_schema.errors import UnknownNameError
from steptrace_schema.moving.recover import recover
from steptrace_schema.names import REQUIRED_SCALARS

if TYPE_CHECKING:
    from pathlib import Path

SCALARS = {f"scalars/{name}": np.array(1, np.float32) for name in REQUIRED_SCALARS}


def test_the_layers_are_stacked_in_the_order_of_the_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    steps = [
        (
            step,
            {
                **SCALARS,
                "probe_gradients/net/z/saliency": first[step],
                "probe_gradients/net/a/saliency": second[step],
            },
        )
        for step in range(3)
    ]
    write_journal(tmp_path / "run.zarr", steps)
    recover(tmp_path / "run.zarr")
    found = total_gradient(open_trace(tmp_path / "run.zarr"), step=1)
    assert found.dims[0] == "layer"
    assert set(found["layer"].values.tolist()) == {"net/z", "net/a"}
    assert (found.sel(layer="net/z").values == first[1]).all()
    assert (found.sel(layer="net/a").values == second[1]).all()


def test_a_trace_without_gradients_says_how_to_record_them(tmp_path: Path) -> None:
    write_journal(tmp_path / "run.zarr", [(0, SCALARS)])
    recover(tmp_path / "run.zarr")
    trace = open_trace(tmp_path / "run.zarr")
    with pytest.raises(UnknownNameError, match="'probe_gradients'"):
        total_gradient(trace)
