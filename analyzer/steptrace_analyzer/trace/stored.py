"""The arrays of a store as lazy variables."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from dask.base import tokenize
from zarr.errors import ZarrUserWarning

from steptrace_schema.encoding.codecs import Encoding
from steptrace_schema.encoding.read_region import location_objects, overlaps, read_region
from steptrace_schema.encoding.zarr_private import chunk_keys
from steptrace_schema.errors import DamagedTraceError, TraceError
from steptrace_schema.names import STEP
from steptrace_schema.storage.contents import file_sizes
from steptrace_schema.storage.location import Location, is_packed
from steptrace_schema.store.opening import open_zarr

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from steptrace_schema.encoding.read_region import Region
    from steptrace_schema.format.attributes import TraceAttributes


def stored_arrays(path: Location, attributes: TraceAttributes) -> dict[str, xr.Variable]:
    """Return every array of the store as a lazy variable, cut to the rows that are recorded."""
    variables: dict[str, xr.Variable] = {}
    group = open_zarr(path)
    is_stored = _stored_files(path)
    with warnings.catch_warnings():
        # While a trace is written, and where its writer was killed, there are files half written.
        warnings.simplefilter("ignore", ZarrUserWarning)
        members = dict(group.members(max_depth=None))
    slow: list[str] = []
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
            _StoredArray(path, key, array, rows, _encoding(array, slow), is_stored),
            chunks=array.shards or array.chunks,
            name=f"{key}-{tokenize(str(path), key, attributes.run_id, rows)}",
            asarray=True,
        )
        variables[key] = xr.Variable(dims, data, attrs=dict(array.attrs))
    if slow:
        warnings.warn(
            f"{path}: the codecs of {len(slow)} arrays, such as '{min(slow)}', are none that "
            f"steptrace decodes itself, as zarr {zarr.__version__} states them; zarr reads these "
            "arrays, with the same values, but more slowly",
            stacklevel=2,
        )
    return variables


def _recorded_rows(key: str, array: zarr.Array[Any], attributes: TraceAttributes) -> int:
    """Return how many rows of the array are data; see `steps_recorded` in the specification."""
    return min(int(array.shape[0]), attributes.rows(key))


class _StoredArray:
    """A Zarr array for dask whose read errors name the trace, the array and the rows.

    dask hands it the selections that follow the reading of a block, so that only the chunks that
    they need are decoded. Each axis is indexed by itself. Zarr reads a chunk that is not there as
    fill values; here it is an error, because a writer stores every chunk of a recorded row.
    """

    def __init__(
        self,
        path: Location,
        key: str,
        array: zarr.Array[Any],
        rows: int | None,
        encoding: Encoding | None,
        is_stored: Callable[[str], bool],
    ) -> None:
        self.path = path
        self.key = key
        self.array = array
        self.shape = array.shape if rows is None else (rows, *array.shape[1:])
        self.dtype = array.dtype
        self.ndim = array.ndim
        self._is_stored = is_stored
        self._chunk_key = chunk_keys(array)
        self._encoding = encoding
        self._objects = location_objects(path, key, array)

    def __getitem__(self, index: tuple[Any, ...]) -> npt.NDArray[Any]:
        axes = [_needed(part, n) for part, n in zip(index, self.shape, strict=True)]
        values = self._read(tuple(needed for needed, _ in axes))
        for axis in reversed(range(self.ndim)):  # a number takes its axis away
            values = values[(*[slice(None)] * axis, axes[axis][1])]
        return values

    def _read(self, region: Region) -> npt.NDArray[Any]:
        for position, _, _ in overlaps(region, self.array.shards or self.array.chunks):
            name = f"{self.key}/{self._chunk_key(position)}"
            if not self._is_stored(name):
                raise self._damaged(region, f"file {name} is missing or empty")
        try:
            if self._encoding is None:
                return np.asarray(self.array.oindex[region])
            fill = self.array.fill_value
            return read_region(self._encoding, region, self.dtype, fill, self._objects)
        except Exception as error:  # each codec raises its own kind
            raise self._damaged(region, f"{type(error).__name__}: {error}") from error

    def _damaged(self, region: Region, why: str) -> DamagedTraceError:
        rows = "its value"
        if region:
            numbers = np.arange(self.shape[0])[region[0]]
            rows = f"rows {numbers[0]} to {numbers[-1]}"
        return DamagedTraceError(
            f"{self.path}: array '{self.key}' cannot be decoded in {rows} ({why}); copy the trace "
            "again, or read other steps; 'steptrace validate' lists all that is damaged"
        )


def _needed(part: Any, extent: int) -> tuple[slice | npt.NDArray[np.intp], Any]:
    """Return what to read of an axis for an index of it, and where in that the index then is."""
    if isinstance(part, slice) and part.step in (None, 1):
        start, stop, _ = part.indices(extent)
        return slice(start, max(start, stop)), slice(None)
    picked = np.arange(extent)[part]
    needed = np.unique(picked)
    return needed, np.searchsorted(needed, picked)


def _encoding(array: zarr.Array[Any], slow: list[str]) -> Encoding | None:
    """Return how the array is encoded; None where Zarr has to find out, and add it to `slow`."""
    try:
        return Encoding.of(array)
    except TraceError:
        slow.append(array.path)
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
