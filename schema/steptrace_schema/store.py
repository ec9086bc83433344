"""The store: a trace as a Zarr v3 hierarchy."""

from __future__ import annotations

import json
import shutil
import warnings
import zipfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import zarr
from pydantic import ValidationError
from zarr import AsyncArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.errors import ZarrUserWarning
from zarr.storage import LocalStore, ZipStore

from steptrace_schema.attributes import TraceAttributes
from steptrace_schema.codecs import encoding
from steptrace_schema.errors import (
    NotATraceError,
    TraceError,
    TraceExistsError,
    UnsupportedVersionError,
)
from steptrace_schema.journal import JournalReader, journal_path
from steptrace_schema.layout import ArraySpec, fill_value
from steptrace_schema.locks import is_being_moved, live_writer
from steptrace_schema.names import (
    ATTRIBUTES_KEY,
    STATISTIC,
    STATISTIC_NAMES,
    STATISTICS,
    STATISTICS_VALUES,
    STEP,
    TENSOR,
    Kind,
)
from steptrace_schema.version import FORMAT_VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from zarr.core.array_spec import ArrayConfigParams

PACKED_SUFFIX: Final = ".zip"
"""File name ending of a trace packed into one file."""

_STEP_CHUNK: Final = 1024
_STATISTICS_CHUNK: Final = 256
_COMPRESSORS: Final = (BloscCodec(cname="lz4", shuffle="shuffle", typesize=8), Crc32cCodec())

_WRITE_ALL: Final[ArrayConfigParams] = {
    "write_empty_chunks": True
}  # all-NaN rows are data, not gaps


def supported(version: object) -> bool:
    """Whether a trace of format `version` (``major.minor``) can be read.

    Examples
    --------
    >>> supported("1.7"), supported("2.0"), supported(None)
    (True, False, False)
    """
    major = FORMAT_VERSION.partition(".")[0]
    return isinstance(version, str) and version.partition(".")[0] == major


def is_packed(path: Path) -> bool:
    """Whether `path` names a trace packed into one file."""
    return path.suffix == PACKED_SUFFIX


def parse_attributes(path: Path, attributes: object) -> TraceAttributes:
    """Read the root attributes of the trace at `path`.

    Parameters
    ----------
    path
        Named in errors.
    attributes
        The value of the attribute ``steptrace`` of the root group.

    Raises
    ------
    NotATraceError
        If there is none, or it is not understood.
    UnsupportedVersionError
        If the trace is of another major version.
    """
    if not isinstance(attributes, dict) or "version" not in attributes:
        msg = (
            f"{path} is a Zarr group but not a trace: its root attributes have no "
            f"'{ATTRIBUTES_KEY}' with a 'version'; give the path of the trace itself"
        )
        raise NotATraceError(msg)
    if not supported(attributes["version"]):
        msg = (
            f"{path} is a trace of format {attributes['version']}, and this steptrace reads "
            f"format {FORMAT_VERSION.partition('.')[0]}.x; upgrade with "
            "'pip install --upgrade steptrace'"
        )
        raise UnsupportedVersionError(msg)
    try:
        return TraceAttributes.model_validate(attributes)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        msg = f"{path}: root attribute '{where}' is not valid ({first['msg']})"
        raise NotATraceError(msg) from error


def read_attributes(path: Path) -> TraceAttributes:
    """Read the root attributes of the trace at `path` without opening an array.

    Raises
    ------
    NotATraceError
        If there is no trace at `path`.
    UnsupportedVersionError
        If it is of another major version.
    """
    if not path.exists():
        msg = (
            f"{path} does not exist; give the path of a trace (a .zarr folder or a .zarr.zip file)"
        )
        raise NotATraceError(msg)
    traces = _traces_in(path)
    if traces:
        msg = f"{path} is a folder of {len(traces)} traces; give one of them: {', '.join(traces)}"
        raise NotATraceError(msg)
    try:
        if is_packed(path):
            with zipfile.ZipFile(path) as archive:
                text = archive.read("zarr.json").decode()
        else:
            text = (path / "zarr.json").read_text(encoding="utf-8")
        metadata = json.loads(text)
        attributes = metadata["attributes"].get(ATTRIBUTES_KEY)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, AttributeError, TypeError) as error:
        msg = f"{path} is not a trace: it has no readable zarr.json of a Zarr v3 group ({error})"
        raise NotATraceError(msg) from error
    return parse_attributes(path, attributes)


def _traces_in(path: Path) -> list[str]:
    """Return the traces in a folder that is none itself, such as those of several workers."""
    if not path.is_dir() or (path / "zarr.json").exists():
        return []
    return sorted(found.parent.name for found in path.glob("*/zarr.json"))


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Make sure that a new trace can be written at `path`.

    Parameters
    ----------
    path
        Where a run is to write its trace.
    overwrite
        Delete a trace, with its journal, that is already there. Anything that is not a trace is
        never deleted.

    Raises
    ------
    TraceExistsError
        If something is there that may not be deleted, or a live run is writing it.
    """
    journal = journal_path(path)
    _refuse_live(path, journal)
    if JournalReader(journal).is_leftover:
        shutil.rmtree(journal)
    if not path.exists() and not journal.exists():
        return
    if not overwrite:
        what = path if path.exists() else journal
        msg = f"{what} exists; choose another path, or pass overwrite=True to replace that trace"
        raise TraceExistsError(msg)
    if path.exists():
        try:
            read_attributes(path)
        except UnsupportedVersionError:
            pass  # a trace all the same
        except NotATraceError as error:
            msg = f"{path} exists and is not a trace, so it is not replaced; choose another path"
            raise TraceExistsError(msg) from error
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if journal.exists():
        if not JournalReader(journal).exists:
            msg = f"{journal} exists and is not a journal, so it is not replaced; move it away"
            raise TraceExistsError(msg)
        shutil.rmtree(journal)


def _refuse_live(path: Path, journal: Path) -> None:
    writer = live_writer(journal)
    if writer is not None:
        msg = (
            f"{path} is being written by a training that is still running (process {writer}); "
            "choose another path"
        )
        raise TraceExistsError(msg)
    if is_being_moved(journal):
        msg = f"{path} is still being finished by its recorder; wait for it, or choose another path"
        raise TraceExistsError(msg)


def open_zarr(path: Path) -> zarr.Group:
    """Open the trace at `path`, a folder or a packed file, for reading.

    Raises
    ------
    NotATraceError
        If there is no trace at `path`.
    UnsupportedVersionError
        If it is of another major version.
    """
    read_attributes(path)
    store = ZipStore(path, mode="r") if is_packed(path) else LocalStore(path, read_only=True)
    return zarr.open_group(store, mode="r", zarr_format=3)


class TraceWriter:
    """Writes rows into a store and commits them.

    Rows become part of the trace only with :meth:`commit`, one atomic write of the root attributes.

    Parameters
    ----------
    path
        Folder of the store; made if it is not there.
    attributes
        Root attributes for a new store; those of an existing one are read from it.
    """

    def __init__(self, path: Path, attributes: TraceAttributes) -> None:
        self.path = path
        self.attributes = attributes
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._groups: set[str] = set()
        # A folder without it is what a crash left of a store that was being made.
        if (path / "zarr.json").exists():
            self.attributes = read_attributes(path)
            for left in path.rglob("*.partial"):  # by a writer that was killed
                left.unlink()
            self._root = zarr.open_group(
                LocalStore(path), mode="r+", zarr_format=3, use_consolidated=False
            )
        else:
            self._root = zarr.create_group(
                LocalStore(path), zarr_format=3, attributes=_as_attribute(attributes)
            )

    def commit(self, attributes: TraceAttributes) -> None:
        """Make `attributes` the root attributes, and with them what they say is recorded."""
        self._root.update_attributes(_as_attribute(attributes))
        self.attributes = attributes

    def consolidate(self) -> None:
        """Put a copy of all metadata into the root, so that opening reads one file."""
        with warnings.catch_warnings():
            # Readers that know nothing of it ignore it, as the specification asks them to.
            warnings.simplefilter("ignore", ZarrUserWarning)
            zarr.consolidate_metadata(self._root.store)

    def read_row(self, spec: ArraySpec, row: int) -> npt.NDArray[Any]:
        """Return one row of an array, as it is stored."""
        return np.asarray(self._open(spec)[row])

    def read_step(self, kind: Kind, row: int) -> int:
        """Return the step of one row of a kind."""
        array = self._root[f"{kind}/{STEP}"]
        return int(np.asarray(array[row]))  # type: ignore[index]

    def write_static(self, spec: ArraySpec, values: npt.NDArray[Any]) -> None:
        """Write an array that has no step dimension."""
        self._open(spec)[...] = values

    def write_rows(self, spec: ArraySpec, start: int, rows: npt.NDArray[Any]) -> None:
        """Write `rows` (step, ...) of an array from row `start` on, growing it as needed."""
        array = self._open(spec)
        before, needed = array.shape, (start + len(rows), *spec.shape)
        grown = _of_shape(array, needed)
        if array.shape != needed:
            _fill_earlier_rows(grown, before, start)
        grown[start : start + len(rows)] = rows
        if array.shape != needed:
            # Last, so that no row of the array's shape ever lacks a chunk, even after a crash.
            array.resize(needed)

    def write_steps(self, kind: Kind, start: int, steps: list[int]) -> None:
        """Write the step coordinate of a kind."""
        self._write_steps(kind, start, steps)

    def write_statistics(
        self,
        kind: Kind,
        tensors: tuple[str, ...],
        start: int,
        steps: list[int],
        values: npt.NDArray[np.float64],
    ) -> None:
        """Write rows of a kind's statistics, `values` (step, tensor, statistic)."""
        group = f"{STATISTICS}/{kind}"
        key = f"{group}/{STATISTICS_VALUES}"
        array = self._known(key)
        if array is None:
            array = self._create(
                key,
                shape=(0, len(tensors), len(STATISTIC_NAMES)),
                chunks=(_STATISTICS_CHUNK, max(1, len(tensors)), len(STATISTIC_NAMES)),
                dtype="float64",
                fill_value=float("nan"),
                dimension_names=(STEP, TENSOR, STATISTIC),
                attributes={"tensors": list(tensors), "statistics": list(STATISTIC_NAMES)},
                compressors=_COMPRESSORS,
            )
        if list(tensors) != array.attrs["tensors"]:
            array.attrs["tensors"] = list(tensors)
        needed = (start + len(steps), len(tensors), len(STATISTIC_NAMES))
        if array.shape != needed:
            array.resize(needed)
        array[start : start + len(steps)] = values
        self._write_steps(group, start, steps)

    def _write_steps(self, group: str, start: int, steps: list[int]) -> None:
        key = f"{group}/{STEP}"
        array = self._known(key)
        if array is None:
            array = self._create(
                key,
                shape=(0,),
                chunks=(_STEP_CHUNK,),
                dtype="int64",
                fill_value=-1,
                dimension_names=(STEP,),
                attributes={"long_name": "optimizer step, counted from 0"},
                compressors=_COMPRESSORS,
            )
        if array.shape != (start + len(steps),):
            array.resize((start + len(steps),))
        array[start:] = np.asarray(steps, dtype=np.int64)

    def _open(self, spec: ArraySpec) -> zarr.Array[Any]:
        array = self._known(spec.key)
        if array is None:
            array = self._create(
                spec.key,
                shape=spec.shape if spec.static else (0, *spec.shape),
                dtype=spec.dtype,
                fill_value=fill_value(spec.dtype),
                dimension_names=spec.dims if spec.static else (STEP, *spec.dims),
                attributes=spec.attributes,
                **encoding(spec, self.attributes.policy.profile, self.attributes.shard_steps),
            )
        return array

    def _create(self, key: str, **keywords: Any) -> zarr.Array[Any]:
        self._require_groups(key)
        array = self._root.create_array(key, **keywords, config=_WRITE_ALL)
        self._arrays[key] = array
        return array

    def _require_groups(self, key: str) -> None:
        """Make the groups above an array, from the root down, before the array itself.

        A crash in between then never leaves an array that no listing of groups finds.
        """
        for parent in reversed(PurePosixPath(key).parents[:-1]):
            if str(parent) not in self._groups:
                self._root.require_group(str(parent))
                self._groups.add(str(parent))

    def _known(self, key: str) -> zarr.Array[Any] | None:
        """Return the array at `key` where the store has it."""
        if key not in self._arrays:
            found = self._root.get(key)
            if isinstance(found, zarr.Group):
                msg = f"{self.path}: '{key}' is a group where an array is declared"
                raise TraceError(msg)
            if found is None:
                return None
            self._arrays[key] = found.with_config(_WRITE_ALL)
        return self._arrays[key]


def _fill_earlier_rows(array: zarr.Array[Any], before: tuple[int, ...], start: int) -> None:
    """Store what earlier rows lack: all of an array that is new, and where later rows are larger.

    Every chunk of a recorded row is stored, so that one that is not there is known to be lost.
    """
    if before[0] < start:
        array[before[0] : start] = array.fill_value
    for axis in range(1, array.ndim):
        if array.shape[axis] > before[axis]:
            region = [slice(0, min(before[0], start)), *[slice(None)] * (array.ndim - 1)]
            region[axis] = slice(before[axis], None)
            array[tuple(region)] = array.fill_value


def _of_shape(array: zarr.Array[Any], shape: tuple[int, ...]) -> zarr.Array[Any]:
    """Return the array as it will be with another shape; what is stored says the old one."""
    metadata = array.metadata
    if not isinstance(metadata, ArrayV3Metadata):
        msg = f"{array.store_path} is not a Zarr v3 array"
        raise TraceError(msg)
    grown = AsyncArray(metadata=metadata.update_shape(shape), store_path=array.store_path)
    return zarr.Array(grown).with_config(_WRITE_ALL)


def _as_attribute(attributes: TraceAttributes) -> dict[str, Any]:
    return {ATTRIBUTES_KEY: attributes.model_dump(mode="json")}
