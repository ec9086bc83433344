"""The order in which a training step produces its tensors."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from steptrace_analyzer.trace.batch import is_input, is_input_gradient, is_target
from steptrace_analyzer.trace.select import tensor_paths
from steptrace_schema.names import (
    BATCH_INDEX,
    BATCH_SIZE,
    EPOCH,
    KINDS,
    LEARNING_RATE,
    LEARNING_RATES,
    LOSS_SCALE,
    SAMPLE_LOSS,
    SKIPPED,
    Kind,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr

_GIVEN: Final = frozenset({LEARNING_RATE, EPOCH, BATCH_INDEX, BATCH_SIZE, LOSS_SCALE, SKIPPED})

_STAGES: Final[dict[Kind, int]] = {
    "inputs": 1,
    "optimizer": 2,  # what the optimizer remembers makes the weights
    "weights": 3,
    "validation": 4,
    "probe": 5,
    "probe_gradients": 6,
    "activations": 7,
    "scalars": 8,
    "activation_gradients": 9,
    "gradients": 11,
    "updates": 12,
    "logged": 13,
}
_INPUT_GRADIENT_STAGE: Final = 10
_BACKWARD: Final = frozenset({"activation_gradients", "gradients"})


def is_given(kind: Kind, path: str) -> bool:
    """Whether a number is given to a step rather than computed by it, as the learning rate is."""
    return kind == "scalars" and (path in _GIVEN or path.startswith(f"{LEARNING_RATES}/"))


@dataclasses.dataclass(frozen=True)
class Dataflow:
    """Sorts tensors by when a step produces them: data, weights, forward, loss, backward, update.

    Within a kind, layers are in the order of the model, and of the backward pass in reverse.

    Parameters
    ----------
    paths
        Per kind, the tensors' paths in the order of the model.
    """

    paths: Mapping[Kind, Sequence[str]]

    @classmethod
    def of(cls, *traces: xr.DataTree) -> Dataflow:
        """Return the order of all tensors of `traces`."""
        paths: dict[Kind, list[str]] = {}
        for kind in KINDS:
            merged = (path for trace in traces for path in tensor_paths(trace, kind))
            paths[kind] = list(dict.fromkeys(merged))
        return cls(paths)

    def rank(self, kind: Kind, path: str) -> tuple[int, int]:
        """Return a sort key; a smaller one is produced earlier in the step."""
        if is_given(kind, path):
            return 0, self._position(kind, path)
        if kind == "inputs" and is_input_gradient(path):
            return _INPUT_GRADIENT_STAGE, self._position(kind, path)
        if kind == "inputs" and path == SAMPLE_LOSS:
            return _STAGES["scalars"], -1  # the loss is its mean
        position = self._position(kind, path)
        return _STAGES[kind], -position if kind in _BACKWARD else position

    def _position(self, kind: Kind, path: str) -> int:
        known = self.paths.get(kind, ())
        if kind == "inputs":  # the data before what is computed from them
            known = sorted(known, key=lambda name: (not is_input(name), not is_target(name)))
        return known.index(path) if path in known else len(known)
