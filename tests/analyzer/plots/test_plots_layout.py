from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from matplotlib.figure import Figure

from figure_layout import layout_faults
from kinds_of_traces import TRACES
from plot_traces import make_trace, small_layers, small_network, small_trace
from steptrace_analyzer.plots import (
    plot_activation_maps,
    plot_activations,
    plot_flow,
    plot_gradients,
    plot_loss,
    plot_parameters,
    plot_ridge,
    plot_sensitivity,
    plot_statistics,
    plot_strip,
    plot_trajectory,
    plot_weights,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr


@cache
def _trace(name: str) -> xr.DataTree:
    return TRACES[name]()


VIEWS: dict[str, Callable[[xr.DataTree], Figure]] = {
    "loss": plot_loss,
    "gradients": plot_gradients,
    "weights": plot_weights,
    "parameters": plot_parameters,
    "activations": plot_activations,
    "maps": plot_activation_maps,
    "flow": plot_flow,
    "trajectory": plot_trajectory,
    "ridge": plot_ridge,
    "strip": lambda trace: plot_strip(trace, steps=[0, 1, 2]),
}
NEEDED = {"activations": "probe", "maps": "activations"}
CASES = [
    (name, view)
    for name in TRACES
    for view in VIEWS
    if view not in NEEDED
    or name in ("small", "three steps", "NaN")
    or (name, view) == ("transformer", "maps")
]
LAYERS = [
    ("transformer", "query"),
    ("transformer", "attention_output"),
    ("transformer", "embed"),
    ("60 layers", "block_9_conv_1"),
    ("small", "dense"),
]


@pytest.mark.parametrize(("name", "view"), CASES)
def test_every_view_of_every_trace_can_be_read(name: str, view: str) -> None:
    assert layout_faults(VIEWS[view](_trace(name))) == []


@pytest.mark.parametrize(("name", "layer"), LAYERS)
@pytest.mark.parametrize("plot", [plot_weights, plot_parameters, plot_statistics])
def test_every_layer_of_every_class_can_be_read(
    name: str, layer: str, plot: Callable[..., Figure]
) -> None:
    assert layout_faults(plot(_trace(name), layer)) == []


def test_the_sensitivity_can_be_read() -> None:
    rng = np.random.default_rng(2)
    gradients = {
        f"probe_gradients/net/{name}/saliency": rng.normal(size=(5, 3, 6, 6, 2)).astype("float32")
        for name in ("conv", "flatten", "dense")
    }
    trace = make_trace(small_network() | gradients, layers=small_layers())
    assert layout_faults(plot_sensitivity(trace, 2)) == []


def test_the_names_of_eight_probe_samples_are_not_cut() -> None:
    once = np.random.default_rng(3).normal(size=(8, 4)).astype("float32")
    before = np.stack([once] * 6)
    found = {"preactivation": before, "output": np.maximum(before, 0)}
    arrays = {f"probe/net/conv/{name}": values for name, values in found.items()}
    arrays["probe/x"] = np.zeros((8, 6, 6, 2), "float32")
    trace = make_trace(small_network() | arrays, layers=small_layers())
    for steps in ([0], [0, 5], [0, 2, 4]):
        assert layout_faults(plot_activations(trace, "conv", steps)) == []


def test_the_names_of_many_losses_are_no_longer_than_their_axis() -> None:
    losses = str(["mse", "sparse_categorical_crossentropy", "binary_crossentropy"])
    trace = small_trace()
    trace.attrs["steptrace"] |= {"loss": losses}
    assert layout_faults(plot_loss(trace)) == []


def test_parameters_of_one_weight_a_unit_have_an_index_that_can_be_read() -> None:
    scale = np.random.default_rng(4).normal(size=(7, 4)).astype("float32")
    figure = plot_parameters(make_trace({"weights/net/dense/scale": scale}), "dense", 1)
    figure.draw_without_rendering()
    for axis in (figure.axes[1].xaxis, figure.axes[2].xaxis):
        assert axis.get_offset_text().get_text() == ""


def test_the_measure_sees_overprinted_cut_and_lost_data() -> None:
    figure = Figure(figsize=(4, 3))
    axes = figure.add_axes((0.2, 0.2, 0.7, 0.7))
    axes.plot([0, 1], [0, 1])
    axes.set_xlim(0, 100)
    axes.set_xticks([50.0, 50.5], ["first", "second"])
    figure.text(-0.1, 0.5, "cut")
    faults = "\n".join(layout_faults(figure))
    assert "'first' and 'second' overlap" in faults
    assert "'cut' is cut at the figure's edge" in faults
    assert "data takes less than half of the x axis" in faults
