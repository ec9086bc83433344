"""The rules about groups, arrays and their metadata."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

import numpy as np

from steptrace_schema.format.json_text import parse_json
from steptrace_schema.format.later_versions import minor_of
from steptrace_schema.format.layout import fill_value
from steptrace_schema.format.paths import LONGEST_SEGMENT, is_portable_path, is_safe_path
from steptrace_schema.names import (
    DIGESTS,
    FINAL,
    INCIDENTS,
    KINDS,
    METADATA_FILE,
    REQUIRED_SCALARS,
    SAMPLE_STATISTICS,
    STATISTIC,
    STATISTIC_NAMES,
    STATISTICS,
    STATISTICS_VALUES,
    STEP,
    TENSOR,
)
from steptrace_schema.store.opening import checked_nodes
from steptrace_schema.store.stored_array import read_arrays
from steptrace_schema.validate.rules import COPY, REWRITE, Problem
from steptrace_schema.version import FORMAT_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from steptrace_schema.format.attributes import TraceAttributes
    from steptrace_schema.storage.location import Location


_PORTABLE_SINCE: Final = 3  # the minor version that brought names that every system can have


_GROUPS: Final = frozenset({*KINDS, STATISTICS, INCIDENTS, FINAL})
"""Top-level groups that the format defines."""


class Hierarchy:
    """The arrays that the format defines, and the names of all files.

    Attributes
    ----------
    digests
        Array and first row to the digests of the rows that were decoded together, so that no chunk
        is decoded twice.
    """

    def __init__(
        self, path: Location, attributes: TraceAttributes, files: Mapping[str, bytes]
    ) -> None:
        self.path = path
        self.attributes = attributes
        nodes = {
            name.removesuffix(f"/{METADATA_FILE}"): parse_json(content)
            for name, content in sorted(files.items())
            if name != METADATA_FILE
        }
        if attributes.status == "recording":
            # What has been written and not committed is no part of the trace yet.
            committed = {str(kind) for kind in attributes.steps_recorded}
            nodes = {key: node for key, node in nodes.items() if kind_of(key) in committed}
        nodes = checked_nodes(path, nodes)
        self.names = sorted(nodes)
        known = {key: node for key, node in nodes.items() if kind_of(key) in _GROUPS}
        self.arrays = read_arrays(path, known)
        self.digests: dict[tuple[str, int], npt.NDArray[np.int64]] = {}
        self._steps: dict[str, npt.NDArray[np.int64] | None] = {}

    def dims(self, key: str) -> tuple[str | None, ...]:
        """Return the dimension names of an array, None for one without a name."""
        array = self.arrays[key]
        return array.metadata.dims or (None,) * array.ndim

    def rows(self, key: str) -> int | None:
        """Return how many rows of an array are recorded, None where it has no step dimension."""
        if STEP not in self.dims(key):
            return None
        return self.attributes.rows(key)

    def steps(self, group: str) -> npt.NDArray[np.int64] | None:
        """Return the steps of the rows of a group, None where they cannot be read."""
        if group not in self._steps:
            self._steps[group] = self._read_steps(f"{group}/{STEP}")
        return self._steps[group]

    def _read_steps(self, key: str) -> npt.NDArray[np.int64] | None:
        if key not in self.arrays or self.dims(key) != (STEP,):
            return None
        try:
            return self.arrays[key].read_rows(self.rows(key)).astype(np.int64, copy=False)
        except Exception:  # what cannot be decoded is a violation of R18, found with the chunks
            return None


def kind_of(key: str) -> str:
    """Return the kind that an array, or an array of statistics, belongs to."""
    return key.removeprefix(f"{STATISTICS}/").partition("/")[0]


def _dims_are_named(trace: Hierarchy) -> Iterator[Problem]:
    for key, array in trace.arrays.items():
        if any(not name for name in trace.dims(key)):
            yield Problem(
                key, "R6", f"{array.ndim} dimension names", str(list(trace.dims(key))), REWRITE
            )


def _names_are_safe(trace: Hierarchy) -> Iterator[Problem]:
    portable = minor_of(trace.attributes.version) >= _PORTABLE_SINCE
    for name in trace.names:
        last = name.rpartition("/")[2]
        if not is_safe_path(last):
            yield Problem(name, "R7", "letters, digits and _ . + -", repr(last), REWRITE)
        elif portable and not is_portable_path(last):
            expected = f"a name that every system can have, of at most {LONGEST_SEGMENT} characters"
            yield Problem(name, "R7", expected, repr(last), REWRITE)


def _steps_have_coordinates(trace: Hierarchy) -> Iterator[Problem]:
    groups = [str(kind) for kind, rows in trace.attributes.steps_recorded.items() if rows]
    with_data = {group_of_steps(k) for k in trace.arrays if STEP in trace.dims(k)}
    expected = "int64 'step' with dims (step,)"
    for group in sorted({*(g for g in groups if g != "updates"), *with_data}):
        key = f"{group}/{STEP}"
        array = trace.arrays.get(key)
        if array is None:
            yield Problem(group, "R8", expected, "no 'step'", COPY)
        elif array.dtype != np.int64 or trace.dims(key) != (STEP,):
            yield Problem(key, "R8", expected, f"{array.dtype} {trace.dims(key)}", REWRITE)


def group_of_steps(key: str) -> str:
    """Return the group whose step coordinate an array goes by."""
    depth = 2 if key.startswith(f"{STATISTICS}/") else 1
    return "/".join(key.split("/")[:depth])


def _rows_match(trace: Hierarchy) -> Iterator[Problem]:
    recording = trace.attributes.status == "recording"
    for key, array in trace.arrays.items():
        rows = trace.rows(key)
        if rows is None:
            continue
        if trace.dims(key)[0] != STEP:
            yield Problem(key, "R9", "step as the first dim", str(trace.dims(key)), REWRITE)
        elif array.shape[0] < rows or (array.shape[0] > rows and not recording):
            yield Problem(key, "R9", f"{rows} rows", f"{array.shape[0]} rows", COPY)


def _dims_agree(trace: Hierarchy) -> Iterator[Problem]:
    sizes: dict[str, dict[str, int]] = {}
    for key in sorted(trace.arrays, key=lambda k: (k.count("/"), k)):
        parents = [str(p) for p in PurePosixPath(key).parents if str(p) != "."]
        for dim, size in zip(trace.dims(key), trace.arrays[key].shape, strict=True):
            if dim is None or dim == STEP:
                continue
            known = next((sizes[p][dim] for p in parents if dim in sizes.get(p, {})), size)
            if known != size:
                found = f"'{dim}' is {size} here and {known} in its group or an ancestor"
                yield Problem(key, "R10", "one size for each dimension", found, REWRITE)
            sizes.setdefault(parents[0] if parents else "", {}).setdefault(dim, size)


def _scalars_are_there(trace: Hierarchy) -> Iterator[Problem]:
    if not trace.attributes.steps_recorded.get("scalars"):
        return
    for name in REQUIRED_SCALARS:
        if f"scalars/{name}" not in trace.arrays:
            yield Problem(f"scalars/{name}", "R11", "an array", "nothing", COPY)


def _fill_values(trace: Hierarchy) -> Iterator[Problem]:
    for key, array in trace.arrays.items():
        expected = fill_value(str(array.dtype))
        if not np.array_equal(
            array.metadata.fill_value, expected, equal_nan=array.dtype.kind in "fc"
        ):
            yield Problem(key, "R12", str(expected), str(array.metadata.fill_value), REWRITE)


def _statistics_are_described(trace: Hierarchy) -> Iterator[Problem]:
    for key, array in trace.arrays.items():
        if not (key.startswith(f"{STATISTICS}/") and key.endswith(f"/{STATISTICS_VALUES}")):
            continue
        dims, tensors = trace.dims(key), array.attributes.get("tensors")
        names = array.attributes.get("statistics")
        if dims != (STEP, TENSOR, STATISTIC) or array.dtype != np.float64:
            found = f"{array.dtype} {dims}"
            yield Problem(key, "R13", "float64 (step, tensor, statistic)", found, REWRITE)
        elif (
            not isinstance(tensors, list)
            or len(tensors) != array.shape[1]
            or not all(isinstance(path, str) for path in tensors)
        ):
            found = f"{tensors!r:.80}"
            yield Problem(key, "R13", f"'tensors' with {array.shape[1]} names", found, REWRITE)
        elif not _name_statistics(names, array.shape[2], trace.attributes.version):
            yield Problem(
                key, "R13", f"'statistics' {list(STATISTIC_NAMES)}", f"{names!r:.200}", REWRITE
            )


def _name_statistics(names: object, count: int, version: str) -> bool:
    """Whether `count` names are those of statistics; later versions have others behind them."""
    if not isinstance(names, list) or len(names) != count:
        return False
    most = count if minor_of(version) > minor_of(FORMAT_VERSION) else len(STATISTIC_NAMES)
    known = min(count, len(STATISTIC_NAMES))
    return count <= most and names[:known] == [*STATISTIC_NAMES[:known]]


def _digests_are_of_statistics(trace: Hierarchy) -> Iterator[Problem]:
    for key, array in trace.arrays.items():
        if not (key.startswith(f"{STATISTICS}/") and key.endswith(f"/{DIGESTS}")):
            continue
        values = trace.arrays.get(f"{key.rpartition('/')[0]}/{STATISTICS_VALUES}")
        if trace.dims(key) != (STEP, TENSOR) or array.dtype != np.int64:
            found = f"{array.dtype} {trace.dims(key)}"
            yield Problem(key, "R21", "int64 (step, tensor)", found, REWRITE)
        elif values is None or values.ndim < 2 or values.shape[1] != array.shape[1]:
            tensors = "none" if values is None else str(values.shape[1:2])
            found = f"{array.shape[1]}, beside statistics of {tensors}"
            yield Problem(key, "R21", "as many tensors as statistics", found, REWRITE)


def _declared_is_recorded(trace: Hierarchy) -> Iterator[Problem]:
    if trace.attributes.status == "recording":
        return  # it may still be in the journal
    excused = {(m.kind, m.path) for m in trace.attributes.missing if m.reason and m.steps is None}
    for kind in KINDS:
        for path in trace.attributes.declared.get(kind, ()):
            key = f"{kind}/{path}"
            array = trace.arrays.get(key)
            empty = array is None or (STEP in trace.dims(key) and array.shape[0] == 0)
            if empty and (kind, path) not in excused:
                remedy = "the trace is not whole; record the run again, or exclude the tensor"
                yield Problem(key, "R14", "data, or a reason why not", "neither", remedy)


def _incidents_are_whole(trace: Hierarchy) -> Iterator[Problem]:
    if trace.attributes.status == "recording":
        return  # the store is read while it is written
    for incident in trace.attributes.incidents:
        group = f"{INCIDENTS}/{incident.step}"
        named = [name for name in incident.arguments if name is not None]
        for name in dict.fromkeys((*incident.arrays, *named)):
            if f"{group}/{name}" not in trace.arrays:
                yield Problem(f"{group}/{name}", "R23", "an array", "nothing", COPY)


def _final_weights_are_whole(trace: Hierarchy) -> Iterator[Problem]:
    final = trace.attributes.final
    if final is None or trace.attributes.status == "recording":
        return
    for path in final.arrays:
        key = f"{FINAL}/{path}"
        array, weight = trace.arrays.get(key), trace.arrays.get(f"weights/{path}")
        if array is None:
            yield Problem(key, "R24", "an array", "nothing", COPY)
        elif weight is None or (array.shape, array.dtype) != (weight.shape[1:], weight.dtype):
            row = "none" if weight is None else f"{weight.dtype} {weight.shape[1:]}"
            found = f"{array.dtype} {array.shape}"
            yield Problem(key, "R24", f"as a row of weights/{path}: {row}", found, REWRITE)


def _sample_statistics_are_named(trace: Hierarchy) -> Iterator[Problem]:
    key = f"inputs/{SAMPLE_STATISTICS}"
    array, names = trace.arrays.get(key), trace.attributes.sample_statistics
    if array is None or trace.attributes.status == "recording":
        return
    if array.ndim != 3 or array.shape[2] != len(names):
        found = f"the shape {array.shape}"
        yield Problem(key, "R25", f"(step, batch, {len(names)} columns)", found, REWRITE)


HIERARCHY_CHECKS = (
    _dims_are_named,
    _names_are_safe,
    _steps_have_coordinates,
    _rows_match,
    _dims_agree,
    _scalars_are_there,
    _fill_values,
    _statistics_are_described,
    _declared_is_recorded,
    _digests_are_of_statistics,
    _incidents_are_whole,
    _final_weights_are_whole,
    _sample_statistics_are_named,
)
"""One function per rule, in the order of the rules."""
