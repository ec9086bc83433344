"""Which layers' outputs, and which data, each layer takes: from the graph of a functional model.

Keras links the symbolic tensors of functional and sequential models. A model that calls its layers
in code of its own has no such graph, and nothing is said of it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from steptrace_schema.names import X
from steptrace_tracer.capture.names import joined, leaves
from steptrace_tracer.keras_private import results

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from steptrace_tracer.capture.names import Names


@dataclasses.dataclass(frozen=True)
class Taken:
    """What a layer takes, each once, in order.

    Attributes
    ----------
    layers
        Paths of the layers whose outputs it takes, directly or through operations between them.
    data
        Names, inside the kind ``inputs``, of the data that it takes in that way.
    """

    layers: tuple[str, ...] = ()
    data: tuple[str, ...] = ()

    def __add__(self, other: Taken) -> Taken:
        """Return what both take."""
        return Taken(
            tuple(dict.fromkeys(self.layers + other.layers)),
            tuple(dict.fromkeys(self.data + other.data)),
        )


class _UnknownTensorError(Exception):
    """A tensor that nothing in the graph returns."""


def taken_by_layers(models: Iterable[Any], names: Names) -> dict[int, Taken]:
    """Return what each layer takes, by its ``id``; layers of which it is unknown are left out.

    Parameters
    ----------
    models
        Built models.
    names
        The paths of their layers.
    """
    found: dict[int, Taken] = {}
    for model in models:
        given = {id(tensor): Taken(data=(name,)) for name, tensor in _data(model)}
        _Graph(model, given, names.layers).collect(found)
    return found


def _data(model: Any) -> list[tuple[str, Any]]:
    """Return the symbolic inputs of a model with the names of the data that they stand for."""
    inputs = _tensors(model, "inputs")
    try:
        structure = model.input  # which a sequential model has not
    except (AttributeError, ValueError):
        structure = inputs
    if len(inputs) == 1 and not isinstance(structure, dict):
        return [(X, inputs[0])]
    return [(joined(X, name), tensor) for name, tensor in leaves(structure)]


def _tensors(model: Any, name: str) -> list[Any]:
    """Return the symbolic inputs or outputs of a model, none where it has no graph."""
    try:
        return list(getattr(model, name, None) or ())
    except (AttributeError, ValueError):  # a model that is not built
        return []


class _Graph:
    """One functional model.

    Parameters
    ----------
    model
        The model.
    given
        What stands behind each of its inputs, by the ``id`` of the tensor.
    paths
        Paths of layers, by their ``id``.
    """

    def __init__(self, model: Any, given: Mapping[int, Taken], paths: Mapping[int, str]) -> None:
        self._paths = paths
        self._sources = dict(given)
        self._outputs = _tensors(model, "outputs")
        operations: Any = getattr(model, "operations", None) or getattr(model, "layers", ())
        self._operations = list(operations) if self._outputs else []
        self._made_by = {
            id(tensor): (operation, taken)
            for operation in self._operations
            for taken, made in results(operation)
            for tensor in made
        }

    def collect(self, found: dict[int, Taken]) -> None:
        """Add to `found` what each layer takes that the model's outputs depend on."""
        used = self._used()
        for operation in self._operations:
            if id(operation) in self._paths:
                for taken, made in results(operation):
                    if used.intersection(map(id, made)):
                        self._add(operation, taken, found)

    def _used(self) -> set[int]:
        """Return the ``id`` of every tensor that the model's outputs depend on."""
        waiting, used = list(self._outputs), set[int]()
        while waiting:
            tensor = waiting.pop()
            if id(tensor) not in used and id(tensor) in self._made_by:
                used.add(id(tensor))
                waiting.extend(self._made_by[id(tensor)][1])
        return used

    def _add(self, layer: Any, tensors: list[Any], found: dict[int, Taken]) -> None:
        try:
            behind = [self._behind(tensor) for tensor in tensors]
        except _UnknownTensorError:
            return
        found[id(layer)] = sum(behind, found.get(id(layer), Taken()))
        inputs = _tensors(layer, "inputs")
        if len(inputs) == len(behind):
            given = {id(inner): taken for inner, taken in zip(inputs, behind, strict=True)}
            _Graph(layer, given, self._paths).collect(found)

    def _behind(self, tensor: Any) -> Taken:
        """Return which layers' outputs, or data, a tensor is or is computed from."""
        key = id(tensor)
        if key not in self._sources:
            if key not in self._made_by:
                raise _UnknownTensorError
            operation, taken = self._made_by[key]
            if id(operation) in self._paths:
                self._sources[key] = Taken(layers=(self._paths[id(operation)],))
            elif taken:
                self._sources[key] = sum((self._behind(t) for t in taken), Taken())
            else:
                raise _UnknownTensorError
        return self._sources[key]
