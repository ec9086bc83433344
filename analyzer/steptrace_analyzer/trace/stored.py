"""The arrays of a store as lazy variables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.names import FINAL, STEP
from steptrace_schema.storage.contents import file_sizes
from steptrace_schema.store.stored_array import StoredArray, read_arrays

if TYPE_CHECKING:
    import numpy.typing as npt

    from steptrace_schema.encoding.read_region import Region
    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_schema.storage.location import Location

_MOST_OBJECTS: Final = 2**18
"""Stored objects that a trace may claim to have without a look at how many files there are."""


def stored_arrays(path: Location, attributes: TraceAttributes) -> dict[str, xr.Variable]:
    """Return every array of the store as a lazy variable, cut to the rows that are recorded.

    Final weights of a training that was resumed since are left out.
    """
    variables: dict[str, xr.Variable] = {}
    final = () if attributes.final is None else attributes.final.arrays
    listed = {f"{FINAL}/{name}" for name in final}
    arrays = {
        key: array
        for key, array in read_arrays(path).items()
        if not key.startswith(f"{FINAL}/") or key in listed
    }
    found: dict[str, tuple[StoredArray, tuple[str, ...], int | None]] = {}
    claimed = 0
    for key, array in arrays.items():
        names = array.metadata.dims if array.ndim else ()
        if names is None:
            msg = (
                f"{path}: array '{key}' has no dimension_names, which every array of a trace has; "
                "'steptrace validate' lists all that is wrong"
            )
            raise DamagedTraceError(msg)
        dims = tuple(str(name) for name in names)
        if len({*dims}) < len(dims):
            msg = f"{path}: array '{key}' has two dimensions of one name; do not trust this trace"
            raise DamagedTraceError(msg)
        rows = _recorded_rows(key, array, attributes) if dims[:1] == (STEP,) else None
        found[key] = array, dims, rows
        claimed += array.claimed_objects(rows)
    _refuse_more_objects_than_files(path, claimed)
    for key, (array, dims, rows) in found.items():
        data = da.from_array(  # type: ignore[no-untyped-call]
            _StoredArray(path, array, rows),
            chunks=array.metadata.unit,
            name=f"{key}-{tokenize(str(path), key, attributes.run_id, rows)}",
            asarray=True,
        )
        variables[key] = xr.Variable(dims, data, attrs=dict(array.attributes))
    return variables


def _refuse_more_objects_than_files(path: Location, claimed: int) -> None:
    """Refuse arrays whose blocks alone would fill the memory."""
    if claimed <= _MOST_OBJECTS:
        return
    there = len(file_sizes(path))  # not counted otherwise: a large trace has many
    if claimed > _MOST_OBJECTS + 2 * there:
        msg = (
            f"{path}: its arrays are to have {claimed} stored objects, and {there} files are "
            "there; copy the trace again; 'steptrace validate' lists what is missing"
        )
        raise DamagedTraceError(msg)


def _recorded_rows(key: str, array: StoredArray, attributes: TraceAttributes) -> int:
    """Return how many rows of the array are data; see `steps_recorded` in the specification."""
    return min(int(array.shape[0]), attributes.rows(key))


class _StoredArray:
    """An array for dask whose read errors name the trace, the array and the rows.

    dask hands it the selections that follow the reading of a block, so that only the chunks that
    they need are decoded. Each axis is indexed by itself. A chunk that is not there is an error,
    because a writer stores every chunk of a recorded row.
    """

    def __init__(self, path: Location, array: StoredArray, rows: int | None) -> None:
        self.path = path
        self.array = array
        self.shape = array.shape if rows is None else (rows, *array.shape[1:])
        self.dtype = array.dtype
        self.ndim = array.ndim

    def __getitem__(self, index: tuple[Any, ...]) -> npt.NDArray[Any]:
        axes = [_needed(part, n) for part, n in zip(index, self.shape, strict=True)]
        values = self._read(tuple(needed for needed, _ in axes))
        for axis in reversed(range(self.ndim)):  # a number takes its axis away
            values = values[(*[slice(None)] * axis, axes[axis][1])]
        return values

    def _read(self, region: Region) -> npt.NDArray[Any]:
        try:
            return self.array.read(region)
        except ValueError as error:
            raise self._damaged(region, str(error)) from error
        except Exception as error:  # each way of being wrong raises its own kind
            raise self._damaged(region, f"{type(error).__name__}: {error}") from error

    def _damaged(self, region: Region, why: str) -> DamagedTraceError:
        rows = "its value"
        if region:
            numbers = np.arange(self.shape[0])[region[0]]
            rows = f"rows {numbers[0]} to {numbers[-1]}"
        key = self.array.metadata.key
        return DamagedTraceError(
            f"{self.path}: array '{key}' cannot be decoded in {rows} ({why}); copy the trace "
            "again, or read other steps; 'steptrace validate' lists all that is damaged"
        )


def _needed(part: Any, extent: int) -> tuple[slice | npt.NDArray[np.intp], Any]:
    """Return what to read of an axis for an index of it, and where in that the index then is."""
    if isinstance(part, slice) and part.step in (None, 1):
        start, stop, _ = part.indices(extent)
        return slice(start, max(start, stop)), slice(None)
    picked = np.arange(extent)[part]
    needed = np.unique(picked)
    if len(needed) and needed[-1] - needed[0] == len(needed) - 1:  # which is found faster
        return slice(int(needed[0]), int(needed[-1]) + 1), picked - needed[0]
    return needed, np.searchsorted(needed, picked)
