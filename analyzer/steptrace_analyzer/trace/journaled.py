"""The rows of a journal as lazy variables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.delayed import delayed

from steptrace_schema.encoding.expansion import refuse_at_once
from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.format.layout import ArraySpec, fill_value
from steptrace_schema.journal.fitting import refuse_misfit
from steptrace_schema.journal.lasting import LastingRecord, lasting
from steptrace_schema.names import STATISTIC, STATISTIC_NAMES, STATISTICS, STEP, TENSOR
from steptrace_schema.statistics.describe import compute_statistics
from steptrace_schema.statistics.digests import UNKNOWN_DIGEST, row_digests

if TYPE_CHECKING:
    import numpy.typing as npt

    from steptrace_schema.journal.declaration import Declaration
    from steptrace_schema.journal.reader import JournalReader

_BLOCK_BYTES = 4 * 2**20
"""What is read at once, so that many small records are few tasks."""
_READ_ATTEMPTS = 10  # the recorder may move records while they are being listed


def read_journal(journal: JournalReader) -> tuple[Declaration | None, list[LastingRecord]]:
    """Read the declaration and open every record; an open record outlives its deletion."""
    for _ in range(_READ_ATTEMPTS):
        if not journal.exists:
            return None, []
        try:
            places = journal.places()
        except FileNotFoundError:  # the recorder has just finished
            continue
        try:
            records = [record for place in places if (record := lasting(place)) is not None]
            return journal.declaration(), records
        except DamagedTraceError:
            if all(place.is_there() for place in places) and journal.exists:
                raise
    msg = f"{journal.directory} changes too fast to be read; try again in a moment"
    raise DamagedTraceError(msg)


def static_rows(spec: ArraySpec, records: list[LastingRecord]) -> xr.Variable:
    """Return the value of an array without a step dimension."""
    record = next(r for r in records if spec.key in r.keys)
    values = record.read(spec.key)
    refuse_misfit(record.path, spec, values.shape, values.dtype)
    return xr.Variable(spec.dims, values, attrs=spec.attributes)


def journal_rows(spec: ArraySpec, records: list[LastingRecord]) -> xr.Variable:
    """Return one lazily read row (step, ...) for each record."""
    row_bytes = max(1, math.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
    refuse_at_once(row_bytes, max((record.nbytes for record in records), default=0))
    rows = max(1, _BLOCK_BYTES // row_bytes)
    read = delayed(_block, pure=False)
    blocks = [
        da.from_delayed(  # type: ignore[no-untyped-call]
            read(block, spec), shape=(len(block), *spec.shape), dtype=spec.dtype
        )
        for block in (records[start : start + rows] for start in range(0, len(records), rows))
    ]
    joined = da.concatenate(blocks)  # type: ignore[no-untyped-call]
    return xr.Variable((STEP, *spec.dims), joined, attrs=spec.attributes)


def _block(records: list[LastingRecord], spec: ArraySpec) -> npt.NDArray[Any]:
    return np.stack([_padded(record, spec) for record in records])


def _padded(record: LastingRecord, spec: ArraySpec) -> npt.NDArray[Any]:
    row = np.full(spec.shape, fill_value(spec.dtype), dtype=np.dtype(spec.dtype))
    if spec.key in record.keys:
        values = record.read(spec.key)
        refuse_misfit(record.path, spec, values.shape, values.dtype)
        row[tuple(slice(0, extent) for extent in values.shape)] = values
    return row


def journal_statistics(specs: list[ArraySpec], records: list[LastingRecord]) -> xr.Variable:
    """Compute the statistics of every record, dims (step, tensor, statistic)."""
    shape = (len(records), len(specs), len(STATISTIC_NAMES))
    refuse_at_once(8 * math.prod(shape), sum(record.nbytes for record in records))
    values = np.full(shape, np.nan)
    for row, record in enumerate(records):
        for column, spec in enumerate(specs):
            if spec.key in record.keys:
                found = record.read(spec.key)
                values[row, column] = found if spec.holds_statistics else compute_statistics(found)
    return statistics_variable(values, [spec.path for spec in specs])


def journal_update_statistics(
    variables: dict[str, xr.Variable],
    arrays: tuple[ArraySpec, ...],
    records: list[LastingRecord],
) -> tuple[xr.Variable, xr.Variable] | None:
    """Return the statistics of updates that the store does not have yet, None without one.

    Parameters
    ----------
    variables
        Key to variable, the rows of the journal behind those of the store.
    arrays, records
        What the journal declares, and its records.

    Returns
    -------
    tuple
        The steps, and their statistics, dims (step, tensor, statistic).
    """
    weights = [spec for spec in arrays if spec.kind == "weights" and spec.key in variables]
    described = [
        spec
        for spec in arrays
        if spec.kind == "weights" and spec.statistics_only and not spec.holds_statistics
    ]
    group = f"{STATISTICS}/updates"
    if described and not weights:  # of which the journal alone has the values
        weights = described
        present = [record for record in records if weights[0].key in record.keys]
        steps = np.array([record.step for record in present], np.int64)
        rows_of = {spec.key: journal_rows(spec, present) for spec in weights if present}
    elif not weights:
        return None
    else:
        steps = np.asarray(variables[f"weights/{STEP}"])
        rows_of = {spec.key: variables[spec.key] for spec in weights}
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
        return None
    values = np.full((len(rows), len(weights), len(STATISTIC_NAMES)), np.nan)
    for column, spec in enumerate(weights):
        data = rows_of[spec.key].data
        for index, row in enumerate(rows):
            with np.errstate(invalid="ignore", over="ignore"):
                update = np.asarray(data[row + 1]) - np.asarray(data[row])
            values[index, column] = compute_statistics(update)
    names = [spec.path for spec in weights]
    return xr.Variable((STEP,), steps[rows]), statistics_variable(values, names)


def journal_digests(specs: list[ArraySpec], records: list[LastingRecord]) -> xr.Variable:
    """Compute the digests of every record, dims (step, tensor)."""
    digests = np.full((len(records), len(specs)), UNKNOWN_DIGEST, np.int64)
    for row, record in enumerate(records):
        for column, spec in enumerate(specs):
            if spec.key in record.keys and not spec.statistics_only:
                (digests[row, column],) = row_digests(record.read(spec.key)[np.newaxis])
    return xr.Variable((STEP, TENSOR), digests)


def statistics_variable(values: npt.NDArray[np.float64], tensors: list[str]) -> xr.Variable:
    """Return `values` (step, tensor, statistic) with the attributes that name them."""
    attrs = {"tensors": tensors, "statistics": list(STATISTIC_NAMES)}
    return xr.Variable((STEP, TENSOR, STATISTIC), values, attrs=attrs)
