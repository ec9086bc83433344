"""The arrays of a store as lazy variables."""

from __future__ import annotations

import functools
import itertools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from dask.base import tokenize
from zarr.errors import ZarrUserWarning

from steptrace_schema.codecs import Encoding
from steptrace_schema.errors import DamagedTraceError, TraceError
from steptrace_schema.location import Location, file_sizes, is_packed
from steptrace_schema.names import STEP
from steptrace_schema.reading import location_fetch, read_region
from steptrace_schema.store import open_zarr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from steptrace_schema.attributes import TraceAttributes


def stored_arrays(path: Location, attributes: TraceAttributes) -> dict[str, xr.Variable]:
    """Return every array of the store as a lazy variable, cut to the rows that are recorded."""
    variables: dict[str, xr.Variable] = {}
    group = open_zarr(path)
    is_stored = _stored_files(path)
    with warnings.catch_warnings():
        # While a trace is written, and where its writer was killed, there are files half written.
        warnings.simplefilter("ignore", ZarrUserWarning)
        members = dict(group.members(max_depth=None))
    for key, array in members.items():
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
            _StoredArray(path, key, array, rows, is_stored),
            chunks=array.shards or array.chunks,
            name=f"{key}-{tokenize(str(path), key, attributes.run_id, rows)}",
            asarray=True,
            fancy=False,
        )
        variables[key] = xr.Variable(dims, data, attrs=dict(array.attrs))
    return variables


def _recorded_rows(key: str, array: zarr.Array[Any], attributes: TraceAttributes) -> int:
    """Return how many rows of the array are data; see `steps_recorded` in the specification."""
    return min(int(array.shape[0]), attributes.rows(key))


class _StoredArray:
    """A Zarr array for dask whose read errors name the trace, the array and the rows.

    Zarr reads a chunk that is not there as fill values; here it is an error, because a writer
    stores every chunk of a recorded row.
    """

    def __init__(
        self,
        path: Location,
        key: str,
        array: zarr.Array[Any],
        rows: int | None,
        is_stored: Callable[[str], bool],
    ) -> None:
        self.path = path
        self.key = key
        self.array = array
        self.shape = array.shape if rows is None else (rows, *array.shape[1:])
        self.dtype = array.dtype
        self.ndim = array.ndim
        self._is_stored = is_stored
        self._encoding = _encoding(array)
        self._fetch = location_fetch(path, key, array)

    def __getitem__(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        for name in self._chunk_files(index):
            if not self._is_stored(name):
                raise self._damaged(index, f"file {name} is missing or empty")
        try:
            if self._encoding is None or any(part.step not in (None, 1) for part in index):
                return np.asarray(self.array[index])
            bounds = (p.indices(n) for p, n in zip(index, self.shape, strict=True))
            region = tuple(slice(start, max(start, stop)) for start, stop, _ in bounds)
            fill = self.array.fill_value
            return read_region(self._encoding, region, self.dtype, fill, self._fetch)
        except Exception as error:  # each codec raises its own kind
            raise self._damaged(index, f"{type(error).__name__}: {error}") from error

    def _chunk_files(self, index: tuple[slice, ...]) -> Iterator[str]:
        unit = self.array.shards or self.array.chunks
        ranges = []
        for part, size, extent in zip(index, unit, self.shape, strict=True):
            picked = range(*part.indices(extent))
            if not picked:
                return
            ranges.append(range(min(picked) // size, max(picked) // size + 1))
        for position in itertools.product(*ranges):
            yield f"{self.key}/{self.array.metadata.encode_chunk_key(position)}"

    def _damaged(self, index: tuple[slice, ...], why: str) -> DamagedTraceError:
        rows = f"rows {index[0].start} to {index[0].stop - 1}" if index else "its value"
        return DamagedTraceError(
            f"{self.path}: array '{self.key}' cannot be decoded in {rows} ({why}); copy the trace "
            "again, or read other steps; 'steptrace validate' lists all that is damaged"
        )


def _encoding(array: zarr.Array[Any]) -> Encoding | None:
    """Return how the array is encoded, None where Zarr has to find out."""
    try:
        return Encoding.of(array)
    except TraceError:
        return None


def _stored_files(path: Location) -> Callable[[str], bool]:
    """Return a function that says whether a file of the trace is there and not empty."""
    if not isinstance(path, Path) or is_packed(path):
        sizes = functools.cache(lambda: file_sizes(path))  # a listing only if something is read
        return lambda name: sizes().get(name, 0) > 0

    def is_stored(name: str) -> bool:
        try:
            return (path / name).stat().st_size > 0
        except OSError:
            return False

    return is_stored
