"""Traces of many kinds of runs, for tests of what must show all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plot_traces import make_trace, small_layers, small_network, small_trace
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
