"""What flows in a model: its graph, and how large is what each layer gives and gets back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_analyzer.plots.graph import Graph, model_graph
from steptrace_analyzer.plots.style import BLUE, GREEN, PURPLE, VERMILION
from steptrace_analyzer.plots.subject import model_name
from steptrace_analyzer.trace.described import described_tensors, statistics_table
from steptrace_analyzer.trace.open import opened
from steptrace_analyzer.trace.select import (
    format_steps,
    get_tensor,
    has_tensor,
    layer_of,
    recorded_steps,
)
from steptrace_schema.errors import StepNotRecordedError, UnknownNameError
from steptrace_schema.names import LOSS

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr

    from steptrace_analyzer.trace.open import TraceOrPath
    from steptrace_schema.names import Kind

MOST_NODES: Final = 120
"""A model with more layers is drawn up to this one."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number per node and step.

    Parameters
    ----------
    title, unit
        What it is.
    colour
        Of its points.
    values
        Dims (node, step), float64; NaN where a node has none or it is not finite.
    broken
        Dims (node, step); True where it is recorded and not finite.
    """

    title: str
    unit: str
    colour: str
    values: npt.NDArray[np.float64]
    broken: npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class FlowData:
    """What the model flow view draws, for all steps.

    Parameters
    ----------
    model
        The model's name.
    graph
        Its layers and what each takes.
    steps
        Dims (step,).
    loss
        Dims (step,); NaN where not recorded, empty where no step has one.
    forward, backward
        Root mean square of each layer's output, and of d loss / d output.
    weights, update
        Root mean square of each layer's weights, and the norm of its update as a share of the norm
        of its weights.
    total
        How many nodes the model has.
    """

    model: str
    graph: Graph
    steps: npt.NDArray[np.int64]
    loss: npt.NDArray[np.float64]
    forward: Measure
    backward: Measure
    weights: Measure
    update: Measure
    total: int

    @property
    def measures(self) -> tuple[Measure, ...]:
        """From left to right."""
        return self.forward, self.backward, self.weights, self.update

    def column(self, step: int | None) -> int:
        """Return the place of a step; of the last one for None or -1."""
        if not self.steps.size:
            msg = "no step has statistics of activations, gradients or weights to be drawn"
            raise StepNotRecordedError(msg)
        wanted = int(self.steps[-1]) if step is None else step
        if wanted < 0:
            wanted = int(self.steps[max(wanted, -self.steps.size)])
        places = np.flatnonzero(self.steps == wanted)
        if not places.size:
            recorded = format_steps([int(step) for step in self.steps])
            msg = f"step {wanted} has no statistics; recorded are {recorded}"
            raise StepNotRecordedError(msg)
        return int(places[0])


def flow_data(trace: TraceOrPath) -> FlowData:
    """Read the graph of a model and the size of what flows in it, at all steps.

    Only attributes and statistics are read.

    Parameters and errors are those of :func:`steptrace_analyzer.plots.flow.plot_flow`.
    """
    trace = opened(trace)
    graph = model_graph(trace)
    total = len(graph.nodes)
    if total > MOST_NODES:
        nodes = graph.nodes[:MOST_NODES]
        edges = tuple(edge for edge in graph.edges if edge.target < MOST_NODES)
        graph = Graph(nodes, edges, graph.recorded)
    if not any(node.class_name != "data" for node in graph.nodes):
        msg = f"{trace.name or 'the trace'} has neither activations nor weights to be drawn"
        raise UnknownNameError(msg)
    kinds: tuple[Kind, ...] = ("updates", "activations", "activation_gradients")
    tables = (statistics_table(trace, kind) for kind in kinds)
    steps = sorted({s for table in tables if table is not None for s in recorded_steps(table)})
    if not steps and (table := statistics_table(trace, "weights")) is not None:
        steps = recorded_steps(table)
    columns = np.asarray(steps, dtype=np.int64)
    weights = _squares(trace, "weights", graph, columns)
    updates = _squares(trace, "updates", graph, columns)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        share = np.sqrt(updates.sums / weights.sums)
        share[(updates.sums == 0) & (weights.sums == 0)] = 0.0
        sizes = np.sqrt(weights.sums / weights.count)
    forward = _squares(trace, "activations", graph, columns)
    backward = _squares(trace, "activation_gradients", graph, columns)
    inputs = _squares(trace, "inputs", graph, columns)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        out = np.sqrt(forward.sums / forward.count)
        back = np.sqrt(backward.sums / backward.count)
        given = np.sqrt(inputs.sums / inputs.count)
    data = [at for at, node in enumerate(graph.nodes) if node.class_name == "data"]
    out[data] = given[data]
    return FlowData(
        model=model_name(trace),
        graph=graph,
        steps=columns,
        loss=_loss(trace, columns),
        forward=_measure("forward: output", "root mean square", BLUE, out),
        backward=_measure("backward: d loss / d output", "root mean square", VERMILION, back),
        weights=_measure("weights", "root mean square", GREEN, sizes),
        update=_measure("update of the step", "|update| / |weights|", PURPLE, share),
        total=total,
    )


@dataclasses.dataclass(frozen=True)
class _Squares:
    """Sum of squares and number of elements by node and step, both dims (node, step)."""

    sums: npt.NDArray[np.float64]
    count: npt.NDArray[np.float64]


def _squares(
    trace: xr.DataTree, kind: Kind, graph: Graph, steps: npt.NDArray[np.int64]
) -> _Squares:
    """Add up the squares of a layer's tensors, from their norms."""
    shape = len(graph.nodes), steps.size
    sums, count = np.full(shape, np.nan), np.full(shape, np.nan)
    table = statistics_table(trace, kind)
    if table is None:
        return _Squares(sums, count)
    places = {
        (node.path if node.class_name != "data" else f"data:{node.path}"): at
        for at, node in enumerate(graph.nodes)
    }
    wanted: dict[int, list[int]] = {}
    paths = described_tensors(table)
    for tensor, path in enumerate(paths):
        key = f"data:{path}" if kind == "inputs" else layer_of(path)
        if key in places:
            wanted.setdefault(places[key], []).append(tensor)
    chosen = sorted(t for tensors in wanted.values() for t in tensors)
    if not chosen:
        return _Squares(sums, count)
    norms = np.asarray(table.isel(tensor=chosen).sel(statistic="l2").to_numpy(), dtype=np.float64)
    own = np.asarray(recorded_steps(table), dtype=np.int64)
    common, left, right = np.intersect1d(own, steps, return_indices=True)
    del common
    for node, tensors in wanted.items():
        columns = [chosen.index(t) for t in tensors]
        with np.errstate(over="ignore", invalid="ignore"):
            sums[node, right] = (norms[left][:, columns] ** 2).sum(axis=1)
        count[node] = sum(_elements(trace, kind, paths[t]) for t in tensors)
    return _Squares(sums, count)


def _elements(trace: xr.DataTree, kind: Kind, path: str) -> int:
    if not has_tensor(trace, kind, path):
        return 1
    return int(np.prod(get_tensor(trace, kind, path).shape[1:], dtype=np.int64))


def _measure(title: str, unit: str, colour: str, values: npt.NDArray[np.float64]) -> Measure:
    broken = np.isinf(values)
    return Measure(title, unit, colour, np.where(broken, np.nan, values), broken)


def _loss(trace: xr.DataTree, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    if not has_tensor(trace, "scalars", LOSS):
        return np.empty(0)
    result = np.full(steps.size, np.nan)
    tensor = get_tensor(trace, "scalars", LOSS)
    own = np.asarray(recorded_steps(tensor), dtype=np.int64)
    _, left, right = np.intersect1d(own, steps, return_indices=True)
    result[right] = np.asarray(tensor.to_numpy(), dtype=np.float64)[left]
    return result
