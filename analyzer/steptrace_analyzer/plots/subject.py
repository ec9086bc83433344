"""What a figure is about: the model's name, a layer's tensors, one step of one tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from steptrace_analyzer.trace.open import trace_attributes
from steptrace_analyzer.trace.select import (
    get_tensor,
    has_tensor,
    layer_of,
    recorded_steps,
    resolve_layer,
    resolve_step,
    tensor_paths,
)
from steptrace_schema.errors import UnknownNameError
from steptrace_schema.names import STEP

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    import xarray as xr

    from steptrace_schema.names import Kind


class Located(Protocol):
    """Anything that happened at a step, such as an anomaly."""

    @property
    def step(self) -> int:
        """The step, counted from 0."""


def model_name(trace: xr.DataTree) -> str:
    """Return the name of the model, or of the trace where the model is not described."""
    model = trace_attributes(trace).model
    return model.name if model is not None else trace.name or "trace"


def layer_class(trace: xr.DataTree, layer: str) -> str:
    """Return the class of a layer, ``"Conv2D"``; empty where the trace does not say."""
    described = trace_attributes(trace).layer(layer)
    return described.class_name if described is not None else ""


def layer_classes(trace: xr.DataTree, layer: str) -> tuple[str, ...]:
    """Return the classes of a layer and of the layers around it, the innermost first."""
    pieces = layer.split("/")
    paths = ("/".join(pieces[:count]) for count in range(len(pieces), 0, -1))
    return tuple(layer_class(trace, path) for path in paths)


def layer_tensors(trace: xr.DataTree, kind: Kind, layer: str) -> list[str]:
    """Return the paths of a layer's own tensors of a kind, in the order of the trace."""
    return [path for path in tensor_paths(trace, kind) if layer_of(path) == layer]


def choose_layer(
    trace: xr.DataTree, kind: Kind, name: str | None, suits: Callable[[str], bool]
) -> str:
    """Return the layer that `name` means, or the first that suits where no name is given.

    Parameters
    ----------
    trace
        An opened trace.
    kind
        The kind whose layers are meant.
    name
        A layer's path or its last segments; None for the first layer that suits.
    suits
        Whether a tensor, given by its path, makes its layer suitable.

    Raises
    ------
    UnknownNameError
        If there is no such layer; the message lists what there is.
    """
    if name is not None:
        return resolve_layer(trace, kind, name)
    found = next((path for path in tensor_paths(trace, kind) if "/" in path and suits(path)), None)
    if found is None:
        present = [k for k in trace.children if k != "statistics"]
        msg = (
            f"{trace.name or 'the trace'} has no layer of kind '{kind}' that can be drawn; "
            f"it has {', '.join(present) or 'no data'}"
        )
        raise UnknownNameError(msg)
    return layer_of(found)


def choose_step(tensor: xr.DataArray, step: int | None) -> int:
    """Return the recorded step that `step` means; the last one where none is given."""
    return resolve_step(tensor, -1 if step is None else step)


def read_step(trace: xr.DataTree, kind: Kind, path: str, step: int) -> npt.NDArray[np.float64]:
    """Read one tensor at one step that is recorded, as float64 so that no figure overflows."""
    tensor = get_tensor(trace, kind, path).sel({STEP: step})
    # NumPy's error state belongs to a thread, so an update (inf - inf) is computed in this one.
    with np.errstate(invalid="ignore", over="ignore"):
        values = tensor.compute(scheduler="synchronous").to_numpy()
        return np.asarray(values, dtype=np.float64)


def has_step(trace: xr.DataTree, kind: Kind, path: str, step: int) -> bool:
    """Whether a tensor of this kind exists and is recorded at a step."""
    return has_tensor(trace, kind, path) and step in recorded_steps(get_tensor(trace, kind, path))
