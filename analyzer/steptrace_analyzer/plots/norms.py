"""The norm of each layer's tensors at each step, from the statistics that every trace keeps."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from steptrace_analyzer.trace.described import (
    described_kinds,
    described_tensors,
    statistics_table,
)
from steptrace_analyzer.trace.open import trace_attributes
from steptrace_analyzer.trace.select import layer_of, recorded_steps, tensor_paths
from steptrace_schema.errors import UnknownNameError

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr

    from steptrace_schema.names import Kind


@dataclasses.dataclass(frozen=True)
class LayerNorms:
    """L2 norms by layer and step.

    Parameters
    ----------
    steps
        Dims (step,).
    layers
        Paths, in the order of the model.
    values
        Dims (layer, step), float64. NaN or infinite where the tensors are, or overflow.
    recorded
        Dims (layer, step); False where the trace says that a tensor is missing at that step.
    """

    steps: npt.NDArray[np.int64]
    layers: tuple[str, ...]
    values: npt.NDArray[np.float64]
    recorded: npt.NDArray[np.bool_]

    @property
    def total(self) -> npt.NDArray[np.float64]:
        """Norm over all layers, dims (step,); the gradient's global norm."""
        with np.errstate(over="ignore"):  # infinite is then the answer
            return np.asarray(np.sqrt((self.values**2).sum(axis=0)))


def layer_norms(trace: xr.DataTree, kind: Kind) -> LayerNorms:
    """Return the norm of each layer's tensors: the square root of the sum of squared elements.

    Parameters
    ----------
    trace
        An opened trace. Only its statistics are read.
    kind
        A kind of data that has statistics.

    Returns
    -------
    LayerNorms

    Raises
    ------
    UnknownNameError
        If the trace has no statistics of this kind.

    Examples
    --------
    >>> layer_norms(trace, "gradients").total.argmax()  # doctest: +SKIP
    40
    """
    table = statistics_table(trace, kind)
    if table is None:
        known = ", ".join(described_kinds(trace))
        has = f"it has those of {known}" if known else "it has no statistics at all"
        msg = f"{trace.name or 'the trace'} has no statistics of kind '{kind}'; {has}"
        raise UnknownNameError(msg)
    norms = np.asarray(table.sel(statistic="l2").to_numpy(), dtype=np.float64)
    paths = described_tensors(table)
    steps = recorded_steps(table)
    recorded = _recorded(trace, kind, paths, steps)
    order = {path: position for position, path in enumerate(tensor_paths(trace, kind))}
    members: dict[str, list[int]] = {}
    for column in sorted(range(len(paths)), key=lambda i: order.get(paths[i], len(order))):
        members.setdefault(layer_of(paths[column]), []).append(column)
    with np.errstate(over="ignore"):  # infinite is then the answer
        values = [np.sqrt((norms[:, columns] ** 2).sum(axis=1)) for columns in members.values()]
    return LayerNorms(
        steps=np.asarray(steps, dtype=np.int64),
        layers=tuple(members),
        values=np.stack(values) if values else np.empty((0, len(steps))),
        recorded=np.stack([recorded[:, columns].all(axis=1) for columns in members.values()])
        if values
        else np.empty((0, len(steps)), dtype=bool),
    )


def _recorded(
    trace: xr.DataTree, kind: Kind, paths: list[str], steps: list[int]
) -> npt.NDArray[np.bool_]:
    recorded = np.ones((len(steps), len(paths)), dtype=bool)
    for missing in trace_attributes(trace).missing:
        if missing.kind == kind and missing.path in paths:
            column = paths.index(missing.path)
            lost = np.isin(steps, missing.steps) if missing.steps is not None else True
            recorded[:, column] &= ~np.asarray(lost)
    return recorded
