"""Opening a trace as an xarray DataTree, whether complete, being written, broken off, or packed."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from zipfile import BadZipFile

import dask.array as da
import numpy as np
import xarray as xr

from steptrace_analyzer.trace.journaled import (
    journal_digests,
    journal_rows,
    journal_statistics,
    journal_update_statistics,
    read_journal,
    static_rows,
)
from steptrace_analyzer.trace.sample_statistics import with_sample_statistics
from steptrace_analyzer.trace.stored import stored_arrays
from steptrace_analyzer.trace.updates import with_updates
from steptrace_schema.errors import TraceError
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.where import journal_path
from steptrace_schema.moving.journal_mover import NO_JOURNAL, NOT_CLOSED
from steptrace_schema.moving.recover import is_left_recording
from steptrace_schema.names import (
    ATTRIBUTES_KEY,
    DIGESTS,
    REQUIRED_SCALARS,
    STATISTIC,
    STATISTIC_NAMES,
    STATISTICS,
    STATISTICS_VALUES,
    STEP,
    TENSOR,
)
from steptrace_schema.statistics.describe import has_statistics
from steptrace_schema.storage.contents import has_root
from steptrace_schema.storage.location import Location, locate
from steptrace_schema.storage.locks import is_being_moved
from steptrace_schema.store.opening import not_understood, parse_attributes, read_attributes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_schema.format.layout import ArraySpec
    from steptrace_schema.journal.lasting import LastingRecord
    from steptrace_schema.names import Status

_SOURCE: Final = "source"  # what xarray calls it, too

TraceOrPath: TypeAlias = "xr.DataTree | str | Location"
"""An opened trace, or where one is: what every function of the analyzer accepts."""


def open_trace(path: str | Location) -> xr.DataTree:
    """Open a trace lazily.

    Parameters
    ----------
    path
        A ``.zarr`` folder, a packed ``.zarr.zip`` file, or ``s3://bucket/path``. A trace
        that is still being written, or whose run was killed, opens with every completed step: those
        in its journal included.

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
    path = locate(path)
    journal = JournalReader(journal_path(path), checks=False)  # what is copied is checked then
    declaration, records = read_journal(journal)
    if declaration is not None and not has_root(path):
        attributes, stored = declaration.attributes, {}
    else:
        # After the journal: what the recorder moves in between is then in both, never in neither.
        attributes = read_attributes(path)
        with _in_one_sentence(path):
            stored = stored_arrays(path, attributes)
    journaled = declaration is not None
    present = _present_attributes(journal, attributes, path, journaled=journaled)
    if present is None:
        return open_trace(path)
    records = [record for record in records if record.index >= attributes.records]
    arrays = declaration.arrays if declaration is not None else ()
    root = xr.Dataset(attrs={ATTRIBUTES_KEY: present.model_dump(mode="json")})
    with _in_one_sentence(path):
        datasets = with_sample_statistics(_join(stored, records, arrays), present)
        tree = with_updates(xr.DataTree.from_dict({"/": root, **datasets}, name=path.name))
    tree.encoding[_SOURCE] = str(path.absolute())  # found from any folder
    return tree


@contextlib.contextmanager
def _in_one_sentence(path: Location) -> Iterator[None]:
    """Say of what Zarr or xarray cannot make sense that the metadata are damaged."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, BadZipFile) as error:
        raise not_understood(path, error) from error


def opened(trace: TraceOrPath) -> xr.DataTree:
    """Return an opened trace as it is, and open what is a path.

    Examples
    --------
    >>> opened("run.zarr")  # doctest: +SKIP
    """
    return trace if isinstance(trace, xr.DataTree) else open_trace(trace)


def trace_location(trace: TraceOrPath) -> Location:
    """Return where a trace is.

    Raises
    ------
    TraceError
        If `trace` is a tree that :func:`open_trace` did not return.
    """
    if not isinstance(trace, xr.DataTree):
        return locate(trace)
    source = trace.encoding.get(_SOURCE)
    if source is None:
        msg = f"{trace.name or 'the trace'} was not opened from a path; give its path"
        raise TraceError(msg)
    return locate(source)


def trace_attributes(trace: TraceOrPath) -> TraceAttributes:
    """Return the root attributes of a trace, typed.

    Parameters
    ----------
    trace
        A trace, or its path.

    Examples
    --------
    >>> trace_attributes(open_trace("run.zarr")).status  # doctest: +SKIP
    'complete'
    """
    trace = opened(trace)
    return parse_attributes(Path(trace.name or "trace"), trace.attrs.get(ATTRIBUTES_KEY))


def _present_attributes(
    journal: JournalReader, stored: TraceAttributes, path: Location, *, journaled: bool
) -> TraceAttributes | None:
    """Return the attributes with the status that the trace has right now.

    None if its run has begun or ended since the journal was read: `journaled` says whether it was
    there.
    """
    # In the order in which a run ends: it is closed, its locks are free, its journal is deleted.
    is_live = journal.writer() is not None or is_being_moved(journal.directory)
    closing = journal.closing()
    if journal.exists != journaled:
        return None
    status: Status
    reason: str | None
    advice = f"'steptrace recover {path}' finishes it"
    if not journaled:
        if not is_left_recording(path, stored):
            return stored
        status, reason = "incomplete", f"{NO_JOURNAL}; {advice}"
    elif closing is not None:
        status, reason = closing.status, closing.reason
    elif is_live:
        status, reason = "recording", None
    else:
        status, reason = "incomplete", f"{NOT_CLOSED}; {advice}"
    return stored.model_copy(update={"status": status, "status_reason": reason})


def _join(
    stored: dict[str, xr.Variable], records: list[LastingRecord], arrays: tuple[ArraySpec, ...]
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
                if spec.key not in variables:
                    variables[spec.key] = static_rows(spec, present)
            elif not spec.statistics_only:
                _extend(variables, spec.key, journal_rows(spec, present))
        steps = xr.Variable((STEP,), np.array([r.step for r in present], dtype=np.int64))
        described = [spec for spec in table if has_statistics(spec)]
        if any(not spec.static for spec in table):
            _extend(variables, f"{kind}/{STEP}", steps)
        if described:
            group = f"{STATISTICS}/{kind}"
            values = journal_statistics(described, present)
            if f"{group}/{DIGESTS}" in variables or f"{group}/{STEP}" not in variables:
                _extend(variables, f"{group}/{DIGESTS}", journal_digests(described, present))
            _extend(variables, f"{group}/{STATISTICS_VALUES}", values)
            _extend(variables, f"{group}/{STEP}", steps)
    if records and not any(spec.kind == "updates" for spec in arrays):
        found = journal_update_statistics(variables, arrays, records)
        if found is not None:
            _extend(variables, f"{STATISTICS}/updates/{STATISTICS_VALUES}", found[1])
            _extend(variables, f"{STATISTICS}/updates/{STEP}", found[0])
    datasets: dict[str, dict[str, xr.Variable]] = {}
    for key, variable in variables.items():
        datasets.setdefault(str(PurePosixPath(key).parent), {})[PurePosixPath(key).name] = variable
    return {group: _dataset(group, members) for group, members in datasets.items()}


def _kind(spec: ArraySpec) -> str:
    return spec.kind


def _dataset(group: str, members: dict[str, xr.Variable]) -> xr.Dataset:
    _refuse_misshapen(group, members)
    coords: dict[str, Any] = {}
    if STEP in members and members[STEP].dims == (STEP,):
        coords[STEP] = members.pop(STEP).load()
        refuse_unordered(f"{group}/{STEP}", coords[STEP].values)
    if group.startswith(f"{STATISTICS}/") and STATISTICS_VALUES in members:
        attrs = members[STATISTICS_VALUES].attrs
        coords[TENSOR] = _names(group, attrs.get("tensors", []))
        coords[STATISTIC] = _names(group, attrs.get("statistics", []))
    return xr.Dataset(dict(members), coords=coords)


def _refuse_misshapen(group: str, members: dict[str, xr.Variable]) -> None:
    """Refuse statistics and scalars that no analysis could read by their names and dimensions."""
    wrong = None
    if group.startswith(f"{STATISTICS}/"):
        values = members.get(STATISTICS_VALUES)
        if values is None or values.dims != (STEP, TENSOR, STATISTIC) or values.dtype != np.float64:
            wrong = f"'{group}' has no '{STATISTICS_VALUES}' of float64 (step, tensor, statistic)"
        elif not _begin_alike(values.attrs.get("statistics"), STATISTIC_NAMES):
            wrong = f"'{group}' does not name its statistics"
    elif group == "scalars":
        for name in REQUIRED_SCALARS:
            found = members.get(name)
            if found is not None and (found.dims != (STEP,) or found.dtype.kind not in "fiu"):
                wrong = f"'{group}/{name}' is no number for each step"
    if wrong is None and STEP in members and members[STEP].dims == (STEP,):
        if members[STEP].dtype != np.int64:
            wrong = f"'{group}/{STEP}' is {members[STEP].dtype}, where int64 is expected"
    if wrong is not None:
        raise ValueError(wrong)


def refuse_unordered(key: str, steps: npt.NDArray[np.int64]) -> None:
    """Refuse steps that are not those of a training: each counts from 0, and follows the last.

    Raises
    ------
    ValueError
        If they are not. No selection of a step would find what it is to find.
    """
    if len(steps) and (steps[0] < 0 or (steps[1:] <= steps[:-1]).any()):
        msg = f"'{key}' does not count upwards from a step that is not negative"
        raise ValueError(msg)


def _begin_alike(found: object, known: tuple[str, ...]) -> bool:
    """Whether names are those that are known, or fewer, or more of a later version."""
    return isinstance(found, list) and all(a == b for a, b in zip(found, known, strict=False))


def _names(group: str, names: object) -> list[str]:
    """Return names of tensors or statistics if they are such, each once."""
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        found = [str(name) for name in names]
        if len({*found}) == len(found):
            return found
    msg = f"'{group}' has {names!r:.80} in place of different names"
    raise ValueError(msg)


def _extend(variables: dict[str, xr.Variable], key: str, rows: xr.Variable) -> None:
    if key not in variables:
        variables[key] = rows
        return
    before = variables[key]
    data = da.concatenate([before.data, rows.data])  # type: ignore[no-untyped-call]
    variables[key] = xr.Variable(before.dims, data, attrs=before.attrs)
