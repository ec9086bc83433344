"""The arrays of a step, from the tensors that its traced run returned."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from steptrace_schema.errors import TraceError
from steptrace_schema.format.layout import split_key
from steptrace_schema.format.paths import safe_path
from steptrace_schema.names import (
    RECORDED_ID,
    SAMPLE_DIGEST,
    SAMPLE_ID,
    SAMPLE_LOSS,
    SAMPLE_STATISTICS,
    SAMPLE_WEIGHT,
)
from steptrace_tracer.capture.batch_taps import (
    BATCH_INPUT,
    BATCH_OTHER,
    BATCH_ROWS,
    BATCH_TARGET,
    take_whole,
)
from steptrace_tracer.capture.finished_taps import ROWS
from steptrace_tracer.capture.graph_statistics import describes_in_graph
from steptrace_tracer.capture.taps import NOT_SAMPLES, as_missing, to_array
from steptrace_tracer.record.declare import has_samples
from steptrace_tracer.record.pending_step import Collected
from steptrace_tracer.record.precision import rounded
from steptrace_tracer.record.sample_digests import sample_digests
from steptrace_tracer.record.sample_statistics import sample_statistics
from steptrace_tracer.record.step_budget import beyond_budget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steptrace_schema.format.attributes import Missing
    from steptrace_schema.format.policy import Policy
    from steptrace_tracer.capture.step_result import StepResult
    from steptrace_tracer.capture.taps import Taps


@dataclasses.dataclass(frozen=True)
class StepPosition:
    """When a step runs: its number, and where in the epochs it stands."""

    step: int
    epoch: int
    batch: int

    def after(self, steps: int) -> StepPosition:
        """Return the position so many steps later in the same epoch."""
        return StepPosition(self.step + steps, self.epoch, self.batch + steps)


def collect_step(
    tensors: dict[str, Any],
    result: StepResult,
    position: StepPosition,
    taps: Taps,
    missing: tuple[Missing, ...],
    ids: Any,
    policy: Policy,
    notes: tuple[str, ...] = (),
) -> Collected:
    """Return what one step records, or several that were done together.

    Parameters
    ----------
    tensors
        ``kind/path`` to eager tensor, and the extra taps, which are taken out; of several steps to
        array, dims (step, ...).
    result
        What the step gave, for its times.
    position
        When it ran, or the first one.
    taps
        What it was asked for.
    missing
        What it has no data for.
    ids
        An integer for each sample of the batch; None where there are none.
    policy
        What is recorded.
    notes
        What is to be said of the recording.

    Raises
    ------
    TraceError
        If `ids` are not one integer for each sample.
    """
    together = result.together
    lead = () if together is None else (together,)
    inputs, targets, others = (
        {path: _one_batch(tensor, lead) for path, tensor in take_whole(tensors, kind).items()}
        for kind in (BATCH_INPUT, BATCH_TARGET, BATCH_OTHER)
    )
    rows = np.asarray(tensors.pop(ROWS)).reshape(result.steps, -1)[0].tolist()
    counted = tensors.pop(BATCH_ROWS, None)
    size = max(rows, default=0) if counted is None else int(np.asarray(counted).flat[0])
    samples = len(next(iter(inputs.values()))) if inputs else size * result.steps
    size = samples // result.steps
    not_samples = taps.explain_other_rows(rows, size)
    for kind, path in not_samples:
        tensors.pop(f"{kind}/{path}", None)
    arrays = to_arrays(tensors)
    for name in (SAMPLE_LOSS, SAMPLE_WEIGHT):
        found = arrays.get(f"inputs/{name}")
        if found is not None and found.shape[len(lead)] != size:
            del arrays[f"inputs/{name}"]
            not_samples["inputs", name] = NOT_SAMPLES
    if ids is not None:
        arrays |= _with_ids(arrays, _checked_ids(ids, size), policy)
    if inputs and policy.covers("inputs", SAMPLE_DIGEST):
        digests = sample_digests([*inputs.values()])
        arrays[f"inputs/{SAMPLE_DIGEST}"] = digests.reshape(*lead, size)
    columns: tuple[str, ...] = ()
    if policy.sample_statistics and policy.covers("inputs", SAMPLE_STATISTICS):
        columns, statistics = sample_statistics(inputs | others, targets, samples)
        if columns:
            arrays[f"inputs/{SAMPLE_STATISTICS}"] = statistics.reshape(*lead, size, len(columns))
    number = np.arange(result.steps).reshape(lead)
    arrays |= {
        "scalars/epoch": np.full(lead, position.epoch, np.int64),
        "scalars/batch": scalar(position.batch + number, np.int64),
        "scalars/batch_size": np.full(lead, size, np.int64),
        "scalars/wall_time": scalar(result.wall_time + number * result.duration, np.float64),
        "scalars/step_duration": np.full(lead, result.duration, np.float64),
    }
    left_out = beyond_budget(arrays, policy, result.steps)
    arrays = {key: values for key, values in arrays.items() if key not in left_out}
    all_missing = (*missing, *as_missing(not_samples), *left_out.values())
    attributes = {SAMPLE_STATISTICS: columns} if columns else {}
    described = bool(policy.statistics_only) and describes_in_graph()
    return Collected(arrays, all_missing, notes, attributes, described=described, together=together)


def _one_batch(values: Any, lead: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return the samples of several steps one after the other, as if of one batch."""
    found = np.asarray(values)
    return found.reshape(-1, *found.shape[2:]) if lead else found


def with_precision(collected: Collected, policy: Policy) -> Collected:
    """Return the arrays as exactly as `policy` wants them."""
    if not policy.precision:
        return collected
    final = collected.final
    if final is not None:
        final = dataclasses.replace(final, arrays=_rounded(final.arrays, policy))
    return dataclasses.replace(collected, arrays=_rounded(collected.arrays, policy), final=final)


def _rounded(arrays: Mapping[str, npt.NDArray[Any]], policy: Policy) -> dict[str, npt.NDArray[Any]]:
    found = {}
    for key, values in arrays.items():
        kind = split_key(key)[0]
        keep_bits = None if policy.only_describes(kind) else policy.keep_bits(kind)
        found[key] = values if keep_bits is None else rounded(values, keep_bits)
    return found


def to_arrays(tensors: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Return eager tensors as arrays of NumPy."""
    return {key: to_array(tensor) for key, tensor in tensors.items()}


def _with_ids(
    arrays: Mapping[str, npt.NDArray[Any]], ids: npt.NDArray[np.int64], policy: Policy
) -> dict[str, npt.NDArray[Any]]:
    """Return the ids of a batch's samples, and where a policy names samples, only their rows."""
    found: dict[str, npt.NDArray[Any]] = {}
    if policy.covers("inputs", SAMPLE_ID):
        found[f"inputs/{SAMPLE_ID}"] = ids
    if not policy.picks_samples:
        return found
    picked = np.flatnonzero(np.isin(ids, policy.samples))
    for key, values in arrays.items():
        kind, path = split_key(key)
        if has_samples(kind, path) and not policy.only_describes(kind):
            found[key] = values[picked]
    return found | {f"inputs/{RECORDED_ID}": ids[picked]}


def _checked_ids(ids: Any, size: int) -> npt.NDArray[np.int64]:
    found = np.asarray(ids)
    if found.shape != (size,) or found.dtype.kind not in "iu":
        msg = (
            f"sample_ids returned {found.dtype} of shape {found.shape}; it must return one integer "
            f"for each of the {size} samples"
        )
        raise TraceError(msg)
    return found.astype(np.int64)


def validation_arrays(values: Mapping[str, Any], policy: Policy) -> dict[str, npt.NDArray[Any]]:
    """Return the losses and metrics on the validation data that `policy` covers."""
    return {
        f"validation/{safe_path(name)}": scalar(value, np.float64)
        for name, value in values.items()
        if policy.covers("validation", safe_path(name)) and np.ndim(value) == 0
    }


def scalar(value: Any, dtype: Any) -> npt.NDArray[Any]:
    """Return `value` as a 0-d array."""
    return np.asarray(value, dtype=dtype)
