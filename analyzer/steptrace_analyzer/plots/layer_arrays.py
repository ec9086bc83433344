"""What of a layer is shown as pictures: which arrays, read at one step of one sample."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import numpy as np

from steptrace_analyzer.plots.subject import layer_tensors
from steptrace_analyzer.trace.batch import input_gradient_of, is_input
from steptrace_analyzer.trace.select import get_tensor, has_tensor, tensor_paths
from steptrace_schema.names import OUTPUT, STEP

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.trace.rows import Rows
    from steptrace_schema.names import Kind

Slot = Literal["weights", "update", "gradient", "input", "input_gradient", "output", "backward"]
"""The places of the page that pictures have."""

Look = Literal["variable", "maps", "input"]


@dataclasses.dataclass(frozen=True)
class Subject:
    """One array that is shown as a picture.

    Parameters
    ----------
    slot
        Its place on the page.
    title
        What it is called there.
    kind, path
        Where it is in the trace.
    look
        How it is laid out: as a layer's variable, as maps of channels, or as the model's input.
    """

    slot: Slot
    title: str
    kind: Kind
    path: str
    look: Look

    @property
    def of_sample(self) -> bool:
        """Whether it has one row for each sample of the batch."""
        return self.look != "variable"


def layer_variables(trace: xr.DataTree, layer: str) -> list[str]:
    """Return the paths of a layer's variables, the one of the most dimensions first."""
    paths = layer_tensors(trace, "weights", layer) or layer_tensors(trace, "gradients", layer)
    kinds: tuple[Kind, ...] = ("weights", "gradients")
    rank = {
        path: max(get_tensor(trace, k, path).ndim for k in kinds if has_tensor(trace, k, path))
        for path in paths
    }
    return sorted(paths, key=lambda path: -rank[path])


def subjects(trace: xr.DataTree, layer: str, variable: str | None) -> tuple[Subject, ...]:
    """Return the arrays to show of a layer.

    Parameters
    ----------
    trace
        An opened trace.
    layer
        The layer's whole path.
    variable
        Path of one of its variables; None where it has none.
    """
    found: list[Subject] = []
    if variable is not None:
        name = variable.removeprefix(f"{layer}/")
        slots: tuple[tuple[Slot, Kind, str], ...] = (
            ("weights", "weights", name),
            ("update", "updates", f"update of {name}"),
            ("gradient", "gradients", f"gradient of {name}"),
        )
        for slot, kind, title in slots:
            if has_tensor(trace, kind, variable):
                found.append(Subject(slot, title, kind, variable, "variable"))
    given = [path for path in tensor_paths(trace, "inputs") if is_input(path)]
    if given:
        found.append(Subject("input", f"input {given[0]}", "inputs", given[0], "input"))
        gradient = input_gradient_of(given[0])
        if has_tensor(trace, "inputs", gradient):
            title = f"gradient of input {given[0]}"
            found.append(Subject("input_gradient", title, "inputs", gradient, "maps"))
    if has_tensor(trace, "activations", f"{layer}/{OUTPUT}"):
        path = f"{layer}/{OUTPUT}"
        found.append(Subject("output", "output of the layer", "activations", path, "maps"))
    backward = layer_tensors(trace, "activation_gradients", layer)
    if backward:
        path = min(backward, key=lambda name: name != f"{layer}/{OUTPUT}")
        title = f"gradient of the {path.rpartition('/')[2]}"
        found.append(Subject("backward", title, "activation_gradients", path, "maps"))
    return tuple(found)


def read(
    rows: Rows, subject: Subject, step: int, sample: int, unit: int | None
) -> npt.NDArray[np.float64] | None:
    """Read a subject at one step; None where the trace does not have it there.

    Parameters
    ----------
    rows
        Of an opened trace.
    subject
        What to read.
    step
        Any step.
    sample
        Row of the batch; only for subjects that have samples.
    unit
        Channel (last axis) of a layer's maps; all where None.
    """
    if not rows.has(subject.kind, subject.path, step):
        return None
    values = rows.read(subject.kind, subject.path, step)
    if not subject.of_sample:
        return values
    if sample >= len(values):
        return None
    row = values[sample]
    if unit is None or subject.look == "input" or row.ndim < 2 or subject.kind == "inputs":
        return np.asarray(row)
    return np.asarray(row[..., unit : unit + 1]) if unit < row.shape[-1] else None


def sample_count(trace: xr.DataTree, layer: str) -> int:
    """Return how many samples of a batch are recorded of a layer, one at least."""
    places: tuple[tuple[Kind, str], ...] = (
        ("activations", f"{layer}/{OUTPUT}"),
        ("probe", f"{layer}/{OUTPUT}"),
    )
    counts = [
        int(get_tensor(trace, kind, path).shape[1])
        for kind, path in places
        if has_tensor(trace, kind, path)
    ]
    return max(counts, default=1)


def unit_count(trace: xr.DataTree, layer: str, variable: str | None) -> int:
    """Return how many output units a layer has; 0 where that is not known."""
    if has_tensor(trace, "activations", f"{layer}/{OUTPUT}"):
        shape = get_tensor(trace, "activations", f"{layer}/{OUTPUT}").shape
        return int(shape[-1]) if len(shape) > 2 else 0
    if variable is not None and has_tensor(trace, "weights", variable):
        shape = get_tensor(trace, "weights", variable).shape
        return int(shape[-1]) if len(shape) > 1 else 0
    return 0


def nearest_step(trace: xr.DataTree, kind: Kind, path: str, step: int) -> int | None:
    """Return the last step up to `step` at which a tensor is recorded; None where there is none."""
    if not has_tensor(trace, kind, path):
        return None
    steps = np.asarray(get_tensor(trace, kind, path).coords[STEP])
    place = int(np.searchsorted(steps, step, side="right")) - 1
    return int(steps[place]) if place >= 0 else None
