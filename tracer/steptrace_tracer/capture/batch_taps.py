"""What a step is trained on, as taps: the samples that are kept, and all for their digests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_schema.names import SAMPLE_REPLICA, SAMPLE_STATISTICS, STATISTIC_NAMES, X, Y
from steptrace_tracer._tensorflow import tf
from steptrace_tracer.capture.batch_rows import count_rows
from steptrace_tracer.capture.names import joined, leaves
from steptrace_tracer.capture.replicas import whole_batch
from steptrace_tracer.capture.taps import NOT_NUMBERS, NOT_SAMPLES, Taps, storable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.capture.program import Batch

BATCH_INPUT, BATCH_TARGET, BATCH_OTHER = "batch_input", "batch_target", "batch_other"
"""Where the keys begin of taps with all samples, ``batch_input/number/path``.

Digests and statistics of samples are made of them; they are no arrays of the trace.
"""
BATCH_ROWS: Final = "batch_rows"
"""Key of a tap that the record needs and that is no array of the trace: the size of the batch.

It is there where no input is a dense tensor of numbers, whose rows can be counted.
"""
_DESCRIBED_BYTES: Final = 8 * len(STATISTIC_NAMES)


def batch_taps(batch: Batch, policy: Policy, strategy: Any) -> Taps:
    """Return the taps of a step's batch.

    Parameters
    ----------
    batch
        What the step is trained on.
    policy
        What to keep.
    strategy
        The ``tf.distribute.Strategy`` that spreads it over replicas; None for one.
    """
    taps = Taps()
    # An eager step may be given arrays of NumPy.
    batch = batch.map(_as_tensor)
    whole, kept, samples = batch, batch, policy.rows
    if strategy is not None:
        whole, kept, replica = whole_batch(strategy, batch, samples)
        samples = None  # `kept` holds no more
        if replica is not None and policy.covers("inputs", SAMPLE_REPLICA):
            taps.add("inputs", SAMPLE_REPLICA, replica)
    own, rows = {joined(X, name) for name, _ in leaves(batch.x)}, _rows(whole.x)
    for base, structure in kept.parts():
        for name, tensor in leaves(structure):
            place, is_other = joined(base, name), base not in (X, Y)
            if not policy.covers("inputs", place) or (is_other and place in own):
                continue
            if not storable(tensor):
                taps.explain_missing("inputs", place, NOT_NUMBERS)
            elif tensor.shape.rank == 0 or (is_other and not strategy and _rows(tensor) != rows):
                taps.explain_missing("inputs", place, NOT_SAMPLES)
            else:
                taps.add("inputs", place, tensor[:samples])
    inputs = _whole(BATCH_INPUT, X, whole.x)
    taps.tensors |= inputs
    first = next((tensor for _, tensor in leaves(whole.x)), None)
    if not inputs and (count := count_rows(first)) is not None:
        taps.tensors[BATCH_ROWS] = count
    if policy.sample_statistics and policy.covers("inputs", SAMPLE_STATISTICS):
        taps.tensors |= _whole(BATCH_TARGET, Y, whole.y)
        for base, structure in whole.parts():
            if base not in (X, Y) and _rows(structure) == rows:
                taps.tensors |= _whole(BATCH_OTHER, base, structure)
    return taps


def _rows(structure: Any) -> Any:
    """Return how many samples a structure has as far as is known when it is compiled."""
    first = next((tensor for _, tensor in leaves(structure)), None)
    shape = getattr(first, "shape", None)
    return shape[0] if shape is not None and shape.rank else None


def _as_tensor(leaf: Any) -> Any:
    is_numbers = isinstance(leaf, np.ndarray) and leaf.dtype.kind in "fiub"
    return tf.convert_to_tensor(leaf) if is_numbers else leaf


def _whole(kind: str, base: str, structure: Any) -> dict[str, Any]:
    """Return all samples of inputs or targets."""
    return {
        f"{kind}/{number:04d}/{joined(base, name)}": tensor
        for number, (name, tensor) in enumerate(leaves(structure))
        if storable(tensor) and tensor.shape.rank != 0
    }


def take_whole(tensors: dict[str, Any], kind: str) -> dict[str, Any]:
    """Take the taps with all samples of a kind out of others; return them by path, in order."""
    keys = sorted(key for key in tensors if key.startswith(f"{kind}/"))
    return {key.split("/", 2)[2]: tensors.pop(key) for key in keys}


def recorded_bytes(tensors: Mapping[str, Any]) -> int:
    """Return the bytes of what a step hands to the recorder, of `kind/path` to tensor."""
    whole = (BATCH_INPUT, BATCH_TARGET, BATCH_OTHER)
    return tap_bytes({k: t for k, t in tensors.items() if k.partition("/")[0] not in whole})


def tap_bytes(tensors: Mapping[str, Any]) -> int:
    """Return the bytes of all that a step returns for its record, whole batches included."""
    return sum(int(t.dtype.size) * math.prod(t.shape) for t in tensors.values())
