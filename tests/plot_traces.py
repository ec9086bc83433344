"""Small traces in memory for the tests of figures and reports."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from steptrace_analyzer.trace.updates import with_updates
from steptrace_schema.format.attributes import Layer, Model, TraceAttributes
from steptrace_schema.format.layout import (
    ArraySpec,
    feature_dims,
    resolve_dims,
    split_key,
    variable_dims,
)
from steptrace_schema.format.policy import Policy
from steptrace_schema.names import ATTRIBUTES_KEY, STATISTIC_NAMES
from steptrace_schema.statistics.describe import compute_statistics, has_statistics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

STEPS, BATCH, SAMPLES = 5, 6, 3


def make_trace(
    arrays: Mapping[str, npt.NDArray[Any]],
    *,
    layers: Sequence[Layer] = (),
    steps: Mapping[str, Sequence[int]] | None = None,
    name: str = "run.zarr",
    **fields: Any,
) -> xr.DataTree:
    """Build the tree that `open_trace` returns, with statistics and derived updates.

    Parameters
    ----------
    arrays
        ``kind/path`` to values with dims (step, ...); ``probe/x`` has no step.
    layers
        What the root attributes say about the model's layers.
    steps
        Steps by kind; counted from 0 if not given.
    name
        Of the trace.
    **fields
        Other root attributes.
    """
    specs = resolve_dims([_spec(key, values) for key, values in arrays.items()])
    attributes = TraceAttributes(
        **{
            "run_id": "test",
            "created": "2026-01-01T00:00:00+00:00",
            "producer": "tests",
            "status": "complete",
            "policy": Policy(samples=SAMPLES),
            "model": Model(name="net", class_name="M", parameters=1, trainable_parameters=1),
            "layers": tuple(layers),
            **fields,
        }
    )
    groups: dict[str, xr.Dataset] = {
        "/": xr.Dataset(attrs={ATTRIBUTES_KEY: attributes.model_dump(mode="json")})
    }
    for kind in dict.fromkeys(spec.kind for spec in specs):
        mine = [spec for spec in specs if spec.kind == kind]
        moving = [spec for spec in mine if not spec.static]
        count = max((len(arrays[spec.key]) for spec in moving), default=0)
        numbers = list((steps or {}).get(kind, range(count)))
        if moving:
            groups[kind] = xr.Dataset(coords={"step": numbers})
        for spec in mine:
            dims = spec.dims if spec.static else ("step", *spec.dims)
            group = groups.get(spec.group, xr.Dataset())
            variable = xr.Variable(dims, arrays[spec.key])
            groups[spec.group] = group.assign({PurePosixPath(spec.path).name: variable.chunk()})
        described = [spec for spec in moving if has_statistics(spec)]
        if described:
            groups[f"statistics/{kind}"] = _statistics(described, arrays, numbers)
    return with_updates(xr.DataTree.from_dict(groups, name=name))


def small_network(**changes: Any) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a random run: conv (3x3x2x4, relu), flatten, dense (12x5).

    Parameters
    ----------
    **changes
        Arrays that replace others, ``__`` for ``/``: ``scalars__loss=...``.
    """
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> npt.NDArray[np.float32]:
        return rng.normal(size=shape).astype(np.float32)

    before = draw(STEPS, SAMPLES, 4, 4, 4)
    arrays: dict[str, npt.NDArray[Any]] = {
        "scalars/loss": np.linspace(2, 1, STEPS).astype(np.float32),
        "scalars/learning_rate": np.full(STEPS, 0.1, np.float32),
        "scalars/epoch": np.arange(STEPS) // 3,
        "scalars/batch": np.arange(STEPS) % 3,
        "scalars/batch_size": np.full(STEPS, BATCH),
        "scalars/wall_time": np.arange(STEPS) + 1e9,
        "scalars/step_duration": np.full(STEPS, 0.1),
        "weights/net/conv/kernel": draw(STEPS + 1, 3, 3, 2, 4),
        "weights/net/conv/bias": draw(STEPS + 1, 4),
        "weights/net/dense/kernel": draw(STEPS + 1, 12, 5),
        "gradients/net/conv/kernel": draw(STEPS, 3, 3, 2, 4),
        "gradients/net/conv/bias": draw(STEPS, 4),
        "gradients/net/dense/kernel": draw(STEPS, 12, 5),
        "activations/net/conv/output": np.maximum(draw(STEPS, SAMPLES, 4, 4, 4), 0),
        "activations/net/flatten/output": draw(STEPS, SAMPLES, 12),
        "activation_gradients/net/conv/output": draw(STEPS, SAMPLES, 4, 4, 4),
        "inputs/x": rng.random((STEPS, SAMPLES, 6, 6, 2)).astype(np.float32),
        "inputs/y": rng.integers(0, 5, (STEPS, SAMPLES)),
        "inputs/x_gradient": draw(STEPS, SAMPLES, 6, 6, 2),
        "probe/x": rng.random((SAMPLES, 6, 6, 2)).astype(np.float32),
        "probe/net/conv/preactivation": before,
        "probe/net/conv/output": np.maximum(before, 0),
    }
    return arrays | {key.replace("__", "/"): values for key, values in changes.items()}


def small_layers() -> tuple[Layer, ...]:
    """Describe the layers of :func:`small_network`."""
    return (
        Layer(path="net/conv", name="conv", class_name="Conv2D", activation="relu"),
        Layer(path="net/flatten", name="flatten", class_name="Flatten"),
        Layer(path="net/dense", name="dense", class_name="Dense"),
    )


def small_trace(**changes: Any) -> xr.DataTree:
    """Return :func:`small_network` as a trace."""
    return make_trace(small_network(**changes), layers=small_layers())


def _spec(key: str, values: npt.NDArray[Any]) -> ArraySpec:
    kind, path = split_key(key)
    static = key == "probe/x"
    shape = values.shape if static else values.shape[1:]
    if kind in ("weights", "gradients"):
        dims = variable_dims(len(shape))
    elif not shape:
        dims = ()
    elif path == "sample_replica":
        dims = ("sample",)
    elif path.startswith("sample_"):
        dims = ("batch", "statistic")[: len(shape)]
    else:
        dims = ("sample", *feature_dims(len(shape) - 1))
    return ArraySpec(kind, path, dims, shape, values.dtype.name, static=static)


def _statistics(
    specs: Sequence[ArraySpec], arrays: Mapping[str, npt.NDArray[Any]], steps: Sequence[int]
) -> xr.Dataset:
    values = np.array(
        [[compute_statistics(arrays[spec.key][row]) for spec in specs] for row in range(len(steps))]
    ).reshape(len(steps), len(specs), len(STATISTIC_NAMES))
    return xr.Dataset(
        {"values": (("step", "tensor", "statistic"), values)},
        coords={
            "step": list(steps),
            "tensor": [spec.path for spec in specs],
            "statistic": list(STATISTIC_NAMES),
        },
    )
