"""The network as a graph: which output goes into which layer, drawn in one column."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from steptrace_analyzer.trace.open import trace_attributes
from steptrace_analyzer.trace.select import layer_paths, tensor_paths

if TYPE_CHECKING:
    import xarray as xr


@dataclasses.dataclass(frozen=True)
class Node:
    """A layer, or data that goes into the model.

    Parameters
    ----------
    path
        Of the layer, or the name of the data.
    class_name
        Of the layer; ``"data"`` for what goes into the model.
    """

    path: str
    class_name: str


@dataclasses.dataclass(frozen=True)
class Edge:
    """An output that is an input of another node; both are places in the list of nodes.

    Parameters
    ----------
    source, target
        Places of the nodes; the source is before the target.
    lane
        0 for neighbours in the column. Other edges go around what is between, in a lane from 1 on
        that no other edge has at the same place.
    """

    source: int
    target: int
    lane: int


@dataclasses.dataclass(frozen=True)
class Graph:
    """Nodes in the order of the model, and their edges.

    Parameters
    ----------
    nodes, edges
        Of the graph.
    recorded
        False where the trace does not say what each layer takes, and the edges are a chain in the
        order of the model.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    recorded: bool


def model_graph(trace: xr.DataTree) -> Graph:
    """Return the graph of a trace's model.

    Layers without an output of their own, such as models inside of the model, are left out, and so
    is what is connected through nothing recorded.

    Parameters
    ----------
    trace
        An opened trace. Only its attributes are read.
    """
    described = {layer.path: layer for layer in trace_attributes(trace).layers}
    active = layer_paths(trace, "activations") if "activations" in trace else []
    weighted = layer_paths(trace, "weights") if "weights" in trace else []
    known = {*active, *weighted, *(p for p, layer in described.items() if layer.inputs)}
    order = [path for path in described if path in known]
    order += [path for path in dict.fromkeys([*active, *weighted]) if path not in described]
    recorded = any(described[p].inputs is not None for p in order if p in described)
    data = dict.fromkeys(name for p in order if p in described for name in described[p].data or ())
    if not data and "inputs" in trace and "x" in tensor_paths(trace, "inputs"):
        data = {"x": None}
    nodes = [Node(name, "data") for name in data]
    nodes += [Node(path, described[path].class_name if path in described else "") for path in order]
    place = {node.path: at for at, node in enumerate(nodes) if at >= len(data)}
    inputs = {name: at for at, name in enumerate(data)}
    pairs: list[tuple[int, int]] = []
    if recorded:
        for path in order:
            layer = described.get(path)
            given = (layer.inputs or ()) if layer else ()
            pairs += [(place[name], place[path]) for name in given if name in place]
            taken = (layer.data or ()) if layer else ()
            pairs += [(inputs[name], place[path]) for name in taken if name in inputs]
    else:
        first = len(data)
        pairs += [(at, first) for at in range(first) if first < len(nodes)]
        pairs += [(at, at + 1) for at in range(first, len(nodes) - 1)]
    # A layer that is used again takes what comes after it; the column has no way back.
    forward = sorted({pair for pair in pairs if pair[0] < pair[1]})
    return Graph(tuple(nodes), _lanes(forward), recorded)


def _lanes(pairs: list[tuple[int, int]]) -> tuple[Edge, ...]:
    """Give each edge that goes around others the first lane that is free all along it."""
    edges = []
    taken: list[list[tuple[int, int]]] = []
    for source, target in sorted(pairs, key=lambda pair: (pair[1] - pair[0], pair)):
        if target - source == 1:
            edges.append(Edge(source, target, 0))
            continue
        free = (
            at
            for at, lane in enumerate(taken)
            if all(target <= low or source >= high for low, high in lane)
        )
        number = next(free, len(taken))
        if number == len(taken):
            taken.append([])
        taken[number].append((source, target))
        edges.append(Edge(source, target, number + 1))
    return tuple(sorted(edges, key=lambda edge: (edge.source, edge.target)))
