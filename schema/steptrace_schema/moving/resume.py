"""Resuming a trace that has been closed."""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.errors import DamagedTraceError, DiskLimitError, TraceError
from steptrace_schema.format.attributes import RESUMED, Event, TraceAttributes
from steptrace_schema.format.layout import ArraySpec, split_key
from steptrace_schema.human import human_bytes
from steptrace_schema.moving.recover import recover
from steptrace_schema.names import (
    FINAL,
    INCIDENTS,
    KINDS,
    STATISTIC,
    STATISTIC_NAMES,
    STATISTICS,
    STATISTICS_VALUES,
    STEP,
    Kind,
)
from steptrace_schema.storage.contents import file_sizes
from steptrace_schema.storage.location import Location, is_packed
from steptrace_schema.store.opening import not_understood, read_attributes
from steptrace_schema.store.stored_array import StoredArray, read_arrays
from steptrace_schema.store.writer import TraceWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from steptrace_schema.format.disk_limit import DiskLimit


@dataclasses.dataclass(frozen=True)
class Continuation:
    """What a trace holds that is about to grow again.

    Attributes
    ----------
    path
        Folder of the trace.
    attributes
        Its root attributes, with the rows that stay counted in ``steps_recorded``.
    arrays
        The table of its arrays.
    probe
        The probe's inputs by name, ``x`` or ``x_<part>``, dims (sample, ...).
    """

    path: Location
    attributes: TraceAttributes
    arrays: tuple[ArraySpec, ...]
    probe: dict[str, npt.NDArray[Any]]

    def begin(self) -> None:
        """Drop the rows that are recorded again; call it when the first of them arrives."""
        TraceWriter(self.path, self.attributes).commit(self.attributes)


def reopen(path: Location, step: int, limit: DiskLimit | None = None) -> Continuation:
    """Find out how the trace at `path` is resumed from step number `step` on.

    A journal that is left over is moved into the store. Apart from that, the trace stays as it is
    until :meth:`Continuation.begin`, which drops the rows of `step` and later ones, but not the
    validation of the weights before it, and adds an event that says where the two runs meet.

    Parameters
    ----------
    path
        Folder of a trace.
    step
        The first step that will be recorded.
    limit
        What the trace may take on disk from now on.

    Raises
    ------
    NotATraceError
        If there is no trace at `path`.
    TraceError
        If it is packed, or its run is still going on.
    DiskLimitError
        If it takes more than a store may within `limit`.

    Examples
    --------
    >>> reopen(Path("run.zarr"), 500).attributes.events[-1].message  # doctest: +SKIP
    'recording was resumed here'
    """
    if is_packed(path):
        msg = f"{path} is packed, so nothing can be added to it; run 'steptrace unpack {path}'"
        raise TraceError(msg)
    recover(path)
    if limit is not None:
        _refuse_full(path, limit)
    attributes = read_attributes(path)
    arrays = _arrays(path)
    recorded = attributes.steps_recorded
    thins = bool(attributes.statistics_recorded)
    has_weights = not thins and not attributes.policy.only_describes("weights")
    kept: dict[Kind, int] = {}
    last = -1
    for kind, count in recorded.items():
        if not count:
            kept[kind] = 0
            continue
        derived = f"{kind}/{STEP}" not in arrays  # updates that are only statistics
        steps = _steps(path, arrays, f"{STATISTICS}/{kind}" if derived else kind, count)
        # The update before the first new step is computed again, where its weights are there.
        again = derived and has_weights
        # A validation is of the weights before its step, which are those that are gone on from.
        end = step + 1 if kind == "validation" else step - again
        kept[kind] = int(np.count_nonzero(steps < end))
        if kind == "scalars":
            last = int(steps[-1])
    # In the order in which they were declared, which is that of the columns of the statistics.
    order = [f"{kind}/{path}" for kind, paths in attributes.declared.items() for path in paths]
    found = {key: spec_of(key, array) for key, array in arrays.items() if _is_recorded(key)}
    found |= {spec.key: spec for spec in _only_described(arrays, attributes)}
    specs = tuple(found[key] for key in order if key in found)
    probe = {
        spec.path: _read(path, arrays[spec.key])
        for spec in specs
        if spec.static and spec.kind == "probe"
    }
    event = Event(
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        message=_meeting(last, step),
        step=step,
    )
    attributes = attributes.model_copy(
        update={
            "status": "recording",
            "status_reason": None,
            "finished": None,
            "steps_recorded": kept,
            "statistics_recorded": {
                kind: int(
                    np.count_nonzero(_steps(path, arrays, f"{STATISTICS}/{kind}", count) < step)
                )
                for kind, count in attributes.statistics_recorded.items()
            },
            "events": (*attributes.events, event),
            "final": None,  # the weights of its last step are not the last ones any more
            "incidents": tuple(kept for kept in attributes.incidents if kept.step < step),
            "proofs": tuple(proof for proof in attributes.proofs if proof.step < step),
        }
    )
    return Continuation(path, attributes, specs, probe)


def _refuse_full(path: Location, limit: DiskLimit) -> None:
    sizes = file_sizes(path)
    taken = sum(sizes.values()) + 2 * sizes["zarr.json"]
    if taken > limit.store:
        least = human_bytes(limit.total * taken / limit.store)
        msg = (
            f"{path} already takes {human_bytes(sum(sizes.values()))}, which leaves no room within "
            f"{limit}; set it to more than {least}, or record into another trace"
        )
        raise DiskLimitError(msg)


def _arrays(path: Location) -> dict[str, StoredArray]:
    try:
        return read_arrays(path)
    except ValueError as error:
        raise not_understood(path, error) from error


def _steps(
    path: Location, arrays: Mapping[str, StoredArray], group: str, rows: int
) -> npt.NDArray[np.int64]:
    """Return the first `rows` steps of a group."""
    array = arrays.get(f"{group}/{STEP}")
    if array is None or array.dtype != np.int64 or array.ndim != 1 or array.shape[0] < rows:
        msg = (
            f"{path}: '{group}' has no coordinate 'step' of {rows} rows; copy the trace again, or "
            "record into another one; 'steptrace validate' lists all that is wrong"
        )
        raise DamagedTraceError(msg)
    return _read(path, array, rows)


def _read(path: Location, array: StoredArray, rows: int | None = None) -> npt.NDArray[Any]:
    try:
        return array.read_rows(rows)
    except (OSError, ValueError) as error:
        msg = (
            f"{path}: array '{array.metadata.key}' cannot be decoded ({error}); copy the trace "
            "again, or record into another one; 'steptrace validate' lists all that is damaged"
        )
        raise DamagedTraceError(msg) from error


def _meeting(last: int, step: int) -> str:
    if step > last + 1:
        return f"{RESUMED}; steps {last + 1} to {step - 1} are not recorded"
    if step <= last:
        return f"{RESUMED}; earlier records of steps {step} to {last} were replaced"
    return RESUMED


def _is_recorded(key: str) -> bool:
    others = (f"{STATISTICS}/", f"{INCIDENTS}/", f"{FINAL}/")
    return not key.startswith(others) and key.rpartition("/")[2] != STEP


def _only_described(
    arrays: Mapping[str, StoredArray], attributes: TraceAttributes
) -> Iterator[ArraySpec]:
    """Yield the tensors of which only the statistics are recorded."""
    shape = (len(STATISTIC_NAMES),)
    for kind in filter(attributes.policy.only_describes, KINDS):
        if f"{kind}/{STEP}" not in arrays:  # updates that follow from the weights
            continue
        values = arrays.get(f"{STATISTICS}/{kind}/{STATISTICS_VALUES}")
        tensors = values.attributes.get("tensors") if values is not None else ()
        for path in tensors if isinstance(tensors, list) else ():
            yield ArraySpec(kind, str(path), (STATISTIC,), shape, "float64", statistics_only=True)


def spec_of(key: str, array: StoredArray) -> ArraySpec:
    """Return the declaration of an array that is stored under `key`."""
    kind, path = split_key(key)
    dims = tuple(str(name) for name in array.metadata.dims or ())
    static = dims[:1] != (STEP,)
    return ArraySpec(
        kind=kind,
        path=path,
        dims=dims if static else dims[1:],
        shape=array.shape if static else array.shape[1:],
        dtype=str(array.dtype),
        static=static,
        attributes=dict(array.attributes),
    )
