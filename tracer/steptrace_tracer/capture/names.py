"""The paths of a model's layers and variables in a trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steptrace_schema.errors import TraceError
from steptrace_schema.format.paths import safe_path, unique_paths
from steptrace_schema.names import STEP, X
from steptrace_tracer._tensorflow import keras
from steptrace_tracer.keras_private import own_variables, sublayers

if TYPE_CHECKING:
    from steptrace_schema.format.attributes import Layer

_TAKEN = (STEP, X)
"""Names that are used beside layers in the groups of the kinds."""


@dataclasses.dataclass(frozen=True)
class Names:
    """Paths of the layers and weights of one or more models, by the identity of the object.

    Attributes
    ----------
    layers
        ``id(layer)`` to the layer's group path, in the order of the model.
    weights
        ``id(variable)`` to the path inside the kinds ``weights``, ``gradients`` and ``updates``.
    """

    layers: Mapping[int, str]
    weights: Mapping[int, str]

    @classmethod
    def of(cls, *models: Any) -> Names:
        """Name everything in built models; several models are distinguished by their names."""
        found = [entry for model in models for entry in _named(model, len(models) > 1)]
        layers = [layer for layer, _ in found]
        layer_paths = _paths(path for _, path in found)
        variables = list({id(v): v for model in models for v in model.weights}.values())
        owners = {
            id(variable): (layer.path, path)
            for layer, path in zip(layers, layer_paths, strict=True)
            for variable in own_variables(layer)
        }
        weight_paths = _paths(_weight_path(v, *owners.get(id(v), (None, ""))) for v in variables)
        return cls(
            {id(layer): path for layer, path in zip(layers, layer_paths, strict=True)},
            {id(v): path for v, path in zip(variables, weight_paths, strict=True)},
        )

    def as_in(self, layers: Sequence[Layer], models: tuple[Any, ...]) -> Names:
        """Return the paths that the same layers have in a trace that is there already.

        Keras gives a model that was loaded from a file, or built again, other paths.

        Parameters
        ----------
        layers
            The layers that the trace describes.
        models
            The models whose names these are.

        Raises
        ------
        TraceError
            If the layers are not of the same classes, in the same order.
        """
        expected = [layer.class_name for layer in layers]
        for walk in (walk_operations, walk_layers):  # a trace of before lists no operations
            own = list({id(found): found for m in models for found, _ in walk(m)}.values())
            classes = [type(layer).__name__ for layer in own]
            if classes == expected:
                break
        else:
            msg = (
                f"this model has the layers {', '.join(classes)}, but the trace was recorded from "
                f"{', '.join(expected)}; record into another path"
            )
            raise TraceError(msg)
        paths, weights = dict(self.layers), dict(self.weights)
        for layer, known in zip(own, layers, strict=True):
            paths[id(layer)] = known.path
            named = [v for v in own_variables(layer) if id(v) in weights]
            # An earlier version listed a weight that two layers share at both of them.
            inner = {
                path
                for other in layers
                if other.path.startswith(f"{known.path}/")
                for path in other.variables
            }
            own_paths = [path for path in known.variables if path not in inner]
            for variable, path in zip(named, own_paths, strict=False):
                weights[id(variable)] = path
        return Names(paths, weights)


def _paths(names: Iterable[str]) -> list[str]:
    """Return paths that are safe, distinct, and not inside of what is no group."""
    found = []
    for name in names:
        first, slash, rest = name.partition("/")
        found.append(f"{first}_1/{rest}" if slash and first.lower() in _TAKEN else name)
    return unique_paths([*_TAKEN, *found])[len(_TAKEN) :]


def _weight_path(variable: Any, layer_path: str | None, place: str) -> str:
    """Return Keras' path of the variable, moved with its layer where that has another path."""
    path = str(variable.path)
    if layer_path and place != layer_path and path.startswith(f"{layer_path}/"):
        return place + path.removeprefix(layer_path)
    return path


def _named(model: Any, prefixed: bool) -> Iterator[tuple[Any, str]]:
    prefix = f"{model.name}/"
    for layer, path in walk_operations(model):
        yield layer, path if not prefixed or path.startswith(prefix) else prefix + path


def walk_layers(model: Any) -> Iterator[tuple[Any, str]]:
    """Yield every layer inside `model` once, with the path that Keras gives it.

    Layers that only feed data in are left out. A layer that Keras gives no path, since it has
    nothing to build, is named after its siblings.
    """
    seen = {id(model)}
    yield from _children(model, seen)


def walk_operations(model: Any) -> Iterator[tuple[Any, str]]:
    """Yield what :func:`walk_layers` does, and the operations of graphs that are no layers.

    A functional model has one for each function of ``keras.ops`` that its symbolic tensors were
    given to. It comes behind the layer that is before it in the graph, and is named after its
    siblings.
    """
    seen = {id(model)}
    yield from _children(model, seen, operations=True)


def inside_recurrent(model: Any) -> frozenset[int]:
    """Return the ``id`` of every layer that a recurrent layer calls once for each time step.

    They run inside a loop of the graph, and would run many times in one eager step.
    """
    recurrent = [layer for layer, _ in walk_layers(model) if isinstance(layer, keras.layers.RNN)]
    return frozenset(id(layer) for parent in recurrent for layer, _ in walk_layers(parent))


def _children(
    parent: Any, seen: set[int], *, operations: bool = False
) -> Iterator[tuple[Any, str]]:
    children = sublayers(parent)
    prefix = f"{parent.path}/" if getattr(parent, "path", None) else ""
    nested = any(child.path and child.path.startswith(prefix) for child in children)
    for child in _with_operations(parent, children) if operations else children:
        if id(child) in seen or type(child).__name__ == "InputLayer":
            continue
        seen.add(id(child))
        yield child, getattr(child, "path", None) or (prefix if nested else "") + child.name
        yield from _children(child, seen, operations=operations)


def _with_operations(parent: Any, children: list[Any]) -> list[Any]:
    """Return the layers in their order, each before the operations that follow it in the graph."""
    before: Any = None
    behind: dict[int, list[Any]] = {}
    known = {id(child) for child in children}
    for operation in getattr(parent, "operations", None) or ():
        if id(operation) in known:
            before = operation
        elif not isinstance(operation, keras.Layer):
            behind.setdefault(id(before), []).append(operation)
    ordered = [*behind.get(id(None), ())]
    for child in children:
        ordered += [child, *behind.get(id(child), ())]
    return ordered


def leaves(structure: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a nested structure with a name each, ``""`` for a single tensor.

    Examples
    --------
    >>> list(leaves({"a": 1, "b": (2, 3)}))
    [('a', 1), ('b_0', 2), ('b_1', 3)]
    """
    if isinstance(structure, Mapping):
        items: Any = structure.items()
    elif isinstance(structure, (list, tuple)):
        items = enumerate(structure)
    elif structure is None:
        return
    else:
        yield "", structure
        return
    for key, value in items:
        for name, leaf in leaves(value):
            yield (
                "_".join(part for part in (safe_path(str(key)).replace("/", "_"), name) if part),
                leaf,
            )


def joined(base: str, suffix: str) -> str:
    """Return ``base_suffix``, or `base` where there is no suffix.

    Examples
    --------
    >>> joined("x", "left"), joined("x", "gradient")  # not the gradient of x
    ('x_left', 'x__gradient')
    """
    if suffix.startswith("gradient"):
        suffix = f"_{suffix}"
    return f"{base}_{suffix}" if suffix else base
