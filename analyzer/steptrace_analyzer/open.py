"""Opening a trace as an xarray DataTree, whether complete, being written, broken off, or packed."""

from __future__ import annotations

import itertools
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from dask import delayed
from dask.base import tokenize
from steptrace_schema.compact import NOT_CLOSED, is_being_moved
from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.journal import Declaration, JournalReader, Record, journal_path
from steptrace_schema.layout import ArraySpec, fill_value
from steptrace_schema.names import (
    ATTRIBUTES_KEY,
    STATISTIC,
    STATISTIC_NAMES,
    STATISTICS,
    STATISTICS_VALUES,
    STEP,
    TENSOR,
)
from steptrace_schema.statistics import compute_statistics, has_statistics
from steptrace_schema.store import open_zarr, parse_attributes, read_attributes

from steptrace_analyzer.updates import with_updates

if TYPE_CHECKING:
    import numpy.typing as npt
    from steptrace_schema.attributes import TraceAttributes

_READ_ATTEMPTS = 10  # the recorder may move records while they are being listed


def open_trace(path: str | Path) -> xr.DataTree:
    """Open a trace lazily.

    Parameters
    ----------
    path
        A ``.zarr`` folder or a packed ``.zarr.zip`` file. A trace that is still being written, or
        whose run was killed, opens with every completed step: those in its journal included.

    Returns
    -------
    xarray.DataTree
        One group per kind of data; every array is a lazy dask array with dims (step, ...), and
        ``updates`` is derived where it was not recorded. ``tree.attrs["steptrace"]`` holds the
        root attributes; :func:`trace_attributes` returns them typed.

    Raises
    ------
    NotATraceError
        If there is no trace at `path`.
    UnsupportedVersionError
        If its format is of another major version.
    DamagedTraceError
        If its metadata or journal cannot be read; damaged chunks raise when they are computed.

    Examples
    --------
    >>> trace = open_trace("run.zarr")  # doctest: +SKIP
    >>> trace["weights/dense/kernel"].sel(step=40).mean().compute()  # doctest: +SKIP
    """
    path = Path(path)
    journal = JournalReader(journal_path(path))
    declaration, records = _read_journal(journal)
    if declaration is not None and not path.exists():
        attributes, stored = declaration.attributes, {}
    else:
        # After the journal: what the recorder moves in between is then in both, never in neither.
        attributes = read_attributes(path)
        stored = _stored_arrays(path, attributes)
    if declaration is not None:
        records = [record for record in records if record.index >= attributes.records]
        attributes = _live_attributes(journal, attributes, path)
    arrays = declaration.arrays if declaration is not None else ()
    datasets = _join(stored, records, arrays)
    root = xr.Dataset(attrs={ATTRIBUTES_KEY: attributes.model_dump(mode="json")})
    return with_updates(xr.DataTree.from_dict({"/": root, **datasets}, name=path.name))


def trace_attributes(trace: xr.DataTree) -> TraceAttributes:
    """Return the root attributes of an opened trace, typed.

    Examples
    --------
    >>> trace_attributes(open_trace("run.zarr")).status  # doctest: +SKIP
    'complete'
    """
    return parse_attributes(Path(trace.name or "trace"), trace.attrs.get(ATTRIBUTES_KEY))


class _StoredArray:
    """A Zarr array for dask whose read errors name the trace, the array and the steps."""

    def __init__(self, path: Path, key: str, array: zarr.Array[Any], rows: int | None) -> None:
        self.path = path
        self.key = key
        self.array = array
        self.shape = array.shape if rows is None else (rows, *array.shape[1:])
        self.dtype = array.dtype
        self.ndim = array.ndim

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        try:
            return np.asarray(self.array[index])
        except Exception as error:  # each codec raises its own kind
            first = index[0] if isinstance(index, tuple) and index else index
            rows = f"rows {first.start or 0} to {first.stop}" if isinstance(first, slice) else first
            msg = (
                f"{self.path}: array '{self.key}' cannot be decoded in {rows} "
                f"({type(error).__name__}: {error}); the file is damaged or incomplete, so copy it "
                "again, or read other steps; 'steptrace validate' lists all that is damaged"
            )
            raise DamagedTraceError(msg) from error


def _read_journal(journal: JournalReader) -> tuple[Declaration | None, list[Record]]:
    """Read the declaration and open every record; an open record outlives its deletion."""
    for _ in range(_READ_ATTEMPTS):
        if not journal.exists:
            return None, []
        try:
            paths = journal.paths()
            records = [Record(path) for path in paths]
            return journal.declaration(), records
        except DamagedTraceError:
            if all(path.exists() for path in paths) and journal.exists:
                raise
    msg = f"{journal.directory} changes too fast to be read; try again in a moment"
    raise DamagedTraceError(msg)


def _live_attributes(
    journal: JournalReader, stored: TraceAttributes, path: Path
) -> TraceAttributes:
    """Return the attributes with the status that a trace with a journal has right now."""
    closing = journal.closing()
    if closing is not None:
        status, reason = closing.status, closing.reason
    elif journal.exists and is_being_moved(journal.directory):
        status, reason = "recording", None
    else:
        status = "incomplete"
        reason = f"{NOT_CLOSED}; 'steptrace recover {path}' finishes it"
    return stored.model_copy(update={"status": status, "status_reason": reason})


def _stored_arrays(path: Path, attributes: TraceAttributes) -> dict[str, xr.Variable]:
    """Return every array of the store as a lazy variable, cut to the rows that are recorded."""
    variables: dict[str, xr.Variable] = {}
    group = open_zarr(path)
    for key, array in group.members(max_depth=None):
        if not isinstance(array, zarr.Array):
            continue
        names = getattr(array.metadata, "dimension_names", None)
        if names is None or len(names) != array.ndim:
            msg = (
                f"{path}: array '{key}' has no dimension_names, which every array of a trace has; "
                "'steptrace validate' lists all that is wrong"
            )
            raise DamagedTraceError(msg)
        dims = tuple(str(name) for name in names)
        rows = _recorded_rows(key, array, attributes) if dims[:1] == (STEP,) else None
        data = da.from_array(  # type: ignore[no-untyped-call]
            _StoredArray(path, key, array, rows),
            chunks=array.shards or array.chunks,
            name=f"{key}-{tokenize(str(path), key, attributes.run_id, rows)}",
            asarray=True,
        )
        variables[key] = xr.Variable(dims, data, attrs=dict(array.attrs))
    return variables


def _recorded_rows(key: str, array: zarr.Array[Any], attributes: TraceAttributes) -> int:
    """Return how many rows of the array are data; see `steps_recorded` in the specification."""
    kind = key.removeprefix(f"{STATISTICS}/").partition("/")[0]
    counts: dict[str, int] = {str(k): n for k, n in attributes.steps_recorded.items()}
    return min(int(array.shape[0]), counts.get(kind, 0))


def _join(
    stored: dict[str, xr.Variable], records: list[Record], arrays: tuple[ArraySpec, ...]
) -> dict[str, xr.Dataset]:
    """Put stored rows and journal rows one after the other, one dataset per group."""
    variables = dict(stored)
    for kind, specs in itertools.groupby(sorted(arrays, key=_kind), key=_kind):
        present = [r for r in records if any(k.startswith(f"{kind}/") for k in r.keys)]
        if not present:
            continue
        table = list(specs)
        for spec in table:
            if spec.static:
                variables.setdefault(spec.key, _static_rows(spec, present))
            else:
                _extend(variables, spec.key, _journal_rows(spec, present))
        steps = xr.Variable((STEP,), np.array([r.step for r in present], dtype=np.int64))
        described = [spec for spec in table if has_statistics(spec)]
        if any(not spec.static for spec in table):
            _extend(variables, f"{kind}/{STEP}", steps)
        if described:
            group = f"{STATISTICS}/{kind}"
            values = _journal_statistics(described, present)
            _extend(variables, f"{group}/{STATISTICS_VALUES}", values)
            _extend(variables, f"{group}/{STEP}", steps)
    if records and not any(spec.kind == "updates" for spec in arrays):
        _extend_update_statistics(variables, arrays)
    datasets: dict[str, dict[str, xr.Variable]] = {}
    for key, variable in variables.items():
        datasets.setdefault(str(PurePosixPath(key).parent), {})[PurePosixPath(key).name] = variable
    return {group: _dataset(group, members) for group, members in datasets.items()}


def _kind(spec: ArraySpec) -> str:
    return spec.kind


def _dataset(group: str, members: dict[str, xr.Variable]) -> xr.Dataset:
    coords: dict[str, Any] = {}
    if STEP in members and members[STEP].dims == (STEP,):
        coords[STEP] = members.pop(STEP).load()
    if group.startswith(f"{STATISTICS}/") and STATISTICS_VALUES in members:
        attrs = members[STATISTICS_VALUES].attrs
        coords[TENSOR] = list(attrs.get("tensors", ()))
        coords[STATISTIC] = list(attrs.get("statistics", ()))
    return xr.Dataset(dict(members), coords=coords)


def _extend(variables: dict[str, xr.Variable], key: str, rows: xr.Variable) -> None:
    if key not in variables:
        variables[key] = rows
        return
    before = variables[key]
    data = da.concatenate([before.data, rows.data])  # type: ignore[no-untyped-call]
    variables[key] = xr.Variable(before.dims, data, attrs=before.attrs)


def _static_rows(spec: ArraySpec, records: list[Record]) -> xr.Variable:
    record = next(r for r in records if spec.key in r.keys)
    return xr.Variable(spec.dims, record.read(spec.key), attrs=spec.attributes)


def _journal_rows(spec: ArraySpec, records: list[Record]) -> xr.Variable:
    rows = [
        da.from_delayed(  # type: ignore[no-untyped-call]
            delayed(_padded, pure=False)(record, spec), shape=spec.shape, dtype=spec.dtype
        )
        for record in records
    ]
    stacked = da.stack(rows)  # type: ignore[no-untyped-call]
    return xr.Variable((STEP, *spec.dims), stacked, attrs=spec.attributes)


def _padded(record: Record, spec: ArraySpec) -> npt.NDArray[Any]:
    row = np.full(spec.shape, fill_value(spec.dtype), dtype=np.dtype(spec.dtype))
    if spec.key in record.keys:
        values = record.read(spec.key)
        row[tuple(slice(0, extent) for extent in values.shape)] = values
    return row


def _journal_statistics(specs: list[ArraySpec], records: list[Record]) -> xr.Variable:
    values = np.full((len(records), len(specs), len(STATISTIC_NAMES)), np.nan)
    for row, record in enumerate(records):
        for column, spec in enumerate(specs):
            if spec.key in record.keys:
                values[row, column] = compute_statistics(record.read(spec.key))
    return _statistics_variable(values, [spec.path for spec in specs])


def _statistics_variable(values: npt.NDArray[np.float64], tensors: list[str]) -> xr.Variable:
    attrs = {"tensors": tensors, "statistics": list(STATISTIC_NAMES)}
    return xr.Variable((STEP, TENSOR, STATISTIC), values, attrs=attrs)


def _extend_update_statistics(
    variables: dict[str, xr.Variable], arrays: tuple[ArraySpec, ...]
) -> None:
    """Add statistics of the updates that the store does not have yet."""
    weights = [spec for spec in arrays if spec.kind == "weights" and spec.key in variables]
    if not weights:
        return
    group = f"{STATISTICS}/updates"
    steps = np.asarray(variables[f"weights/{STEP}"])
    known = (
        {int(s) for s in variables[f"{group}/{STEP}"].values}
        if f"{group}/{STEP}" in variables
        else set()
    )
    rows = [
        row
        for row in range(len(steps) - 1)
        if steps[row + 1] == steps[row] + 1 and int(steps[row]) not in known
    ]
    if not rows:
        return
    values = np.full((len(rows), len(weights), len(STATISTIC_NAMES)), np.nan)
    for column, spec in enumerate(weights):
        data = variables[spec.key].data
        for index, row in enumerate(rows):
            with np.errstate(invalid="ignore", over="ignore"):
                update = np.asarray(data[row + 1]) - np.asarray(data[row])
            values[index, column] = compute_statistics(update)
    _extend(
        variables,
        f"{group}/{STATISTICS_VALUES}",
        _statistics_variable(values, [spec.path for spec in weights]),
    )
    _extend(variables, f"{group}/{STEP}", xr.Variable((STEP,), steps[rows]))
