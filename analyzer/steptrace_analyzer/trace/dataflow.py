"""The order in which a training step produces its tensors."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from steptrace_analyzer.trace.select import tensor_paths
from steptrace_schema.names import (
    BATCH_INDEX,
    BATCH_SIZE,
    EPOCH,
    KINDS,
    LEARNING_RATE,
    SAMPLE_DIGEST,
    X_GRADIENT,
    Kind,
    X,
    Y,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr

_GIVEN: Final = frozenset({LEARNING_RATE, EPOCH, BATCH_INDEX, BATCH_SIZE})
"""Scalars that a step is given rather than computes."""

_STAGES: Final[dict[Kind, int]] = {
    "inputs": 1,
    "weights": 2,
    "probe": 3,
    "activations": 4,
    "scalars": 5,
    "activation_gradients": 6,
    "gradients": 8,
    "updates": 9,
    "optimizer": 2,
    "validation": 2,
    "logged": 10,
    "probe_gradients": 3,
}
_X_GRADIENT_STAGE: Final = 7
_INPUTS: Final = (X, Y, SAMPLE_DIGEST)  # the data before what is computed from it
_BACKWARD: Final = frozenset({"activation_gradients", "gradients"})


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
        stage = _STAGES[kind]
        if kind == "scalars" and path in _GIVEN:
            stage = 0
        if kind == "inputs" and path == X_GRADIENT:
            stage = _X_GRADIENT_STAGE
        known = _INPUTS if kind == "inputs" else self.paths.get(kind, ())
        position = known.index(path) if path in known else len(known)
        return stage, -position if kind in _BACKWARD else position
