from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from figure_layout import layout_faults
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
from steptrace_schema.format.attributes import Layer

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr


def _run(
    layers: tuple[Layer, ...],
    weights: dict[str, tuple[int, ...]],
    steps: int = 6,
    **others: Any,
) -> xr.DataTree:
    """A run whose arrays are random numbers of the given shapes."""
    rng = np.random.default_rng(0)
    size = {"scalars/loss": 2 * np.exp(-np.arange(steps) / steps) + rng.random(steps) / 5}
    arrays: dict[str, Any] = {key: values.astype("float32") for key, values in size.items()}
    arrays["scalars/learning_rate"] = np.full(steps, 0.01, "float32")
    arrays["scalars/epoch"] = np.arange(steps) // 40
    for path, shape in weights.items():
        walk = rng.normal(0, 0.01, (steps + 1, *shape)).cumsum(axis=0)
        arrays[f"weights/{path}"] = (rng.normal(size=shape) + walk).astype("float32")
        arrays[f"gradients/{path}"] = rng.normal(size=(steps, *shape)).astype("float32")
    return make_trace(arrays | others, layers=layers)


def dense_512() -> xr.DataTree:
    layer = Layer(path="net/dense", name="dense", class_name="Dense")
    return _run((layer,), {"net/dense/kernel": (512, 64), "net/dense/bias": (64,)})


def three_thousand_steps() -> xr.DataTree:
    layer = Layer(path="net/dense", name="dense", class_name="Dense")
    return _run((layer,), {"net/dense/kernel": (4, 3)}, steps=3000)


def sixty_layers() -> xr.DataTree:
    names = [f"net/block_{n // 2}_conv_{n % 2}" for n in range(60)]
    layers = tuple(Layer(path=n, name=n[4:], class_name="Conv2D") for n in names)
    return _run(layers, {f"{name}/kernel": (3, 3, 16, 16) for name in names})


def transformer() -> xr.DataTree:
    layers = (
        Layer(path="net/embed", name="embed", class_name="Embedding"),
        Layer(path="net/attention", name="attention", class_name="MultiHeadAttention"),
        *(
            Layer(path=f"net/attention/{name}", name=name, class_name="EinsumDense")
            for name in ("query", "attention_output")
        ),
    )
    shapes = {
        "net/embed/embeddings": (200, 64),
        "net/attention/query/kernel": (64, 4, 16),
        "net/attention/query/bias": (4, 16),
        "net/attention/attention_output/kernel": (4, 16, 64),
    }
    rng = np.random.default_rng(1)
    inputs: dict[str, Any] = {
        "inputs/x": rng.integers(0, 200, (6, 3, 12)),
        "activations/net/attention/output": rng.normal(size=(6, 3, 12, 64)).astype("float32"),
    }
    return _run(layers, shapes, **inputs)


def lstm() -> xr.DataTree:
    layer = Layer(path="net/lstm", name="lstm", class_name="LSTM")
    shapes = {
        "net/lstm/kernel": (8, 64),
        "net/lstm/recurrent_kernel": (16, 64),
        "net/lstm/bias": (64,),
    }
    return _run((layer,), shapes)


def with_nan() -> xr.DataTree:
    kernel = small_network()["weights/net/dense/kernel"].copy()
    kernel[2:] = np.nan
    loss = np.array([2.0, 1.5, np.nan, np.nan, np.nan], np.float32)
    return small_trace(weights__net__dense__kernel=kernel, scalars__loss=loss)


def three_steps() -> xr.DataTree:
    cut = {
        key: values if key == "probe/x" else values[: 4 if key.startswith("weights") else 3]
        for key, values in small_network().items()
    }
    return make_trace(cut, layers=small_layers())


TRACES: dict[str, Callable[[], xr.DataTree]] = {
    "small": small_trace,
    "three steps": three_steps,
    "3,000 steps": three_thousand_steps,
    "dense 512 x 64": dense_512,
    "60 layers": sixty_layers,
    "transformer": transformer,
    "LSTM": lstm,
    "NaN": with_nan,
}


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
