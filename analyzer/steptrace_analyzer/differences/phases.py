"""The order in which a step computes its tensors, and what each is computed from."""

from __future__ import annotations

import dataclasses
import functools
from bisect import bisect_left
from typing import TYPE_CHECKING, Final, Literal

from steptrace_analyzer.trace.batch import is_input, is_input_gradient, is_target
from steptrace_schema.names import (
    BATCH_INDEX,
    BATCH_SIZE,
    EPOCH,
    LEARNING_RATE,
    LEARNING_RATES,
    LOSS,
    LOSS_SCALE,
    SAMPLE_DIGEST,
    SAMPLE_LOSS,
    SKIPPED,
    X,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steptrace_schema.format.attributes import Layer
    from steptrace_schema.names import Kind

Phase = Literal[
    "batch",
    "weights",
    "optimizer",
    "probe",
    "forward",
    "loss",
    "backward",
    "gradients",
    "update",
    "validation",
    "logged",
]
PHASES: Final[tuple[Phase, ...]] = (
    *("batch", "weights", "optimizer", "forward", "loss", "backward", "gradients", "update"),
    *("probe", "validation", "logged"),
)
"""In the order in which a step goes through them; what is measured beside it comes last."""

_OF_KIND: Final[dict[Kind, Phase]] = {
    "inputs": "batch",
    "weights": "weights",
    "optimizer": "optimizer",
    "activations": "forward",
    "scalars": "loss",
    "activation_gradients": "backward",
    "gradients": "gradients",
    "updates": "update",
    "probe": "probe",
    "probe_gradients": "probe",
    "validation": "validation",
    "logged": "logged",
}
_OF_SCALAR: Final[dict[str, Phase]] = {
    EPOCH: "batch",
    BATCH_INDEX: "batch",
    BATCH_SIZE: "batch",
    LEARNING_RATE: "update",
    LOSS_SCALE: "loss",
    SKIPPED: "update",
}


def phase_of(kind: Kind, path: str) -> Phase:
    """Return the phase of a step that computes a tensor.

    Examples
    --------
    >>> phase_of("scalars", "learning_rate"), phase_of("inputs", "x_gradient")
    ('update', 'backward')
    """
    if kind == "scalars":
        return "update" if path.startswith(f"{LEARNING_RATES}/") else _OF_SCALAR.get(path, "loss")
    if kind == "inputs" and is_input_gradient(path):
        return "backward"
    if kind == "inputs" and path == SAMPLE_LOSS:
        return "loss"
    return _OF_KIND[kind]


@dataclasses.dataclass(frozen=True)
class Execution:
    """The layers of a model in the order in which a step calls them.

    Attributes
    ----------
    layers
        In that order, as far as `inputs` of the layers say it; else in the order of the model.
    """

    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> Execution:
        """Sort layers so that each comes after those whose outputs it takes."""
        by_path = {layer.path: layer for layer in layers}
        place = {path: number for number, path in enumerate(by_path)}
        names = sorted(by_path)
        ordered: dict[str, Layer] = {}
        entered: set[str] = set()
        waiting = [layer.path for layer in reversed(layers)]
        while waiting:
            path = waiting[-1]
            # A layer that is a model comes after the layers in it, which make its output.
            before: list[str] = []
            if path not in entered:
                first, last = (bisect_left(names, f"{path}{end}") for end in ("/", "0"))
                inside = sorted(names[first:last], key=place.__getitem__)
                before = [*(by_path[path].inputs or ()), *inside]
            entered.add(path)
            due = [p for p in before if p in by_path and p not in ordered and p not in entered]
            if due:
                waiting.extend(reversed(due))
                continue
            waiting.pop()
            ordered.setdefault(path, by_path[path])
        return cls(tuple(ordered.values()))

    def rank(self, kind: Kind, path: str) -> tuple[int, int, int, str]:
        """Return a sort key; a smaller one is computed earlier in the step."""
        phase = phase_of(kind, path)
        owner = self.layer_of(path)
        place = len(self.layers) if owner is None else self._places[owner.path]
        if phase in ("backward", "gradients"):
            place = -place
        own = owner.variables if owner is not None else ()
        return PHASES.index(phase), place, _within(kind, path, own), path

    def layer_of(self, path: str) -> Layer | None:
        """Return the innermost layer that a tensor belongs to, None for one of no layer."""
        owners = [*self._owners.get(path, ())]
        while path := path.rpartition("/")[0]:
            if path in self._places:
                owners.append(self.layers[self._places[path]])
        return max(owners, key=lambda layer: len(layer.path), default=None)

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {layer.path: number for number, layer in enumerate(self.layers)}

    @functools.cached_property
    def _owners(self) -> dict[str, list[Layer]]:
        """The layers that list a variable as theirs."""
        found: dict[str, list[Layer]] = {}
        for layer in self.layers:
            for path in layer.variables:
                found.setdefault(path, []).append(layer)
        return found


def _within(kind: Kind, path: str, variables: Sequence[str]) -> int:
    """Return the place of a tensor among those of one layer, or of none."""
    if path in variables:
        return variables.index(path)
    if kind == "inputs":
        order = (is_input(path), is_target(path), path == SAMPLE_DIGEST)
        return order.index(True) if True in order else len(order)
    if kind == "scalars":
        return 0 if path in (LOSS, EPOCH, LEARNING_RATE) else 1
    return 0


def data_of(layer: Layer) -> tuple[str, ...]:
    """Return the names of the data that a layer takes; ``x`` is that of a model with one input."""
    return tuple(name for name in layer.data or () if name == X or is_input(name))
