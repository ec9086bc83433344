"""Figures of two traces against pictures that were looked at.

After a change that is meant to be seen, draw them again with the option
``--mpl-generate-path=tests/analyzer/plots/baseline`` of pytest, and look at each one.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import matplotlib
import pytest

from kinds_of_traces import TRACES
from steptrace_analyzer.plots import (
    plot_activation_maps,
    plot_activations,
    plot_flow,
    plot_gradients,
    plot_loss,
    plot_parameters,
    plot_ridge,
    plot_statistics,
    plot_strip,
    plot_trajectory,
    plot_weights,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr
    from matplotlib.figure import Figure

_DRAWN_WITH = "3.11"
"""The version of matplotlib that drew the pictures: another one places texts otherwise."""

pytestmark = [
    pytest.mark.skipif(find_spec("pytest_mpl") is None, reason="needs pytest-mpl"),
    pytest.mark.skipif(
        not matplotlib.__version__.startswith(f"{_DRAWN_WITH}."),
        reason=f"the pictures were drawn with matplotlib {_DRAWN_WITH}",
    ),
]

VIEWS: dict[str, Callable[[xr.DataTree], Figure]] = {
    "loss": plot_loss,
    "gradients": plot_gradients,
    "weights": lambda trace: plot_weights(trace, None, 2),
    "parameters": lambda trace: plot_parameters(trace, None, 2),
    "flow": lambda trace: plot_flow(trace, 2),
    "trajectory": plot_trajectory,
    "ridge": plot_ridge,
    "strip": lambda trace: plot_strip(trace, steps=[0, 1, 2]),
    "activations": plot_activations,
    "maps": lambda trace: plot_activation_maps(trace, None, 2),
    "statistics": lambda trace: plot_statistics(trace, "conv"),
}
_OF_SMALL = ("activations", "maps", "statistics")
"""Views of what the transformer's trace does not have."""


@cache
def _trace(name: str) -> xr.DataTree:
    return TRACES[name]()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.mpl_image_compare(
    baseline_dir="baseline", tolerance=8, savefig_kwargs={"dpi": 40}, style="default"
)
def test_a_view_of_a_small_network_looks_as_it_did(view: str) -> Figure:
    return VIEWS[view](_trace("small"))


@pytest.mark.parametrize("view", [view for view in VIEWS if view not in _OF_SMALL])
@pytest.mark.mpl_image_compare(
    baseline_dir="baseline", tolerance=8, savefig_kwargs={"dpi": 40}, style="default"
)
def test_a_view_of_a_transformer_looks_as_it_did(view: str) -> Figure:
    return VIEWS[view](_trace("transformer"))
