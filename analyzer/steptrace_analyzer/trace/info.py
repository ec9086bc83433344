"""What a trace is: its model, what is recorded at which steps, and how many bytes it takes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_analyzer.trace.info_document import (
    Ends,
    InfoDocument,
    KindDocument,
    TraceAttributesDocument,
)
from steptrace_analyzer.trace.open import opened, trace_attributes, trace_location
from steptrace_analyzer.trace.select import format_steps, recorded_steps, tensor_paths
from steptrace_analyzer.trace.updates import is_derived
from steptrace_schema.journal.where import journal_path
from steptrace_schema.json_ready import as_json
from steptrace_schema.names import KINDS, LOSS, STATISTICS, STEP
from steptrace_schema.storage.contents import file_sizes
from steptrace_schema.storage.location import Location, locate
from steptrace_schema.validate.coverage import Coverage, coverage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import xarray as xr

    from steptrace_analyzer.trace.open import TraceOrPath
    from steptrace_schema.format.attributes import Event, Layer, Missing, TraceAttributes
    from steptrace_schema.names import Kind


@dataclasses.dataclass(frozen=True)
class KindInfo:
    """What a trace holds of one kind of data."""

    kind: str
    tensors: int
    steps: tuple[int, ...]
    raw_bytes: int
    """Bytes of all recorded values, uncompressed."""
    stored_bytes: int | None
    """Bytes on disk; None where nothing is stored because the kind is derived on reading."""

    @property
    def ratio(self) -> float | None:
        """Stored bytes over raw bytes; None where nothing is stored."""
        if not self.stored_bytes or not self.raw_bytes:
            return None
        return self.stored_bytes / self.raw_bytes

    def document(self) -> KindDocument:
        """Return what JSON has of it."""
        return KindDocument(
            kind=self.kind,
            tensors=self.tensors,
            steps=format_steps(self.steps),
            step_count=len(self.steps),
            raw_bytes=self.raw_bytes,
            stored_bytes=self.stored_bytes,
            ratio=self.ratio,
        )


@dataclasses.dataclass(frozen=True)
class TraceInfo:
    """What :func:`describe` found out about a trace."""

    path: str
    attributes: TraceAttributes
    kinds: tuple[KindInfo, ...]
    loss: tuple[float, float] | None
    """Loss at the first and at the last recorded step."""
    stored_bytes: int
    """All bytes on disk, metadata included, the journal not."""
    journal_bytes: int
    """Bytes of steps that still wait in the journal."""
    validation: dict[str, tuple[float, float]]
    """First and last value of each loss and metric on the validation data."""
    coverage: tuple[Coverage, ...]
    """What became of everything that the trace declares, by kind and layer."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The model's layers, in its order."""
        return self.attributes.layers

    @property
    def missing(self) -> tuple[Missing, ...]:
        """What was declared and has no data, with the reasons."""
        return self.attributes.missing

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened to the recording itself."""
        return self.attributes.events

    @property
    def steps(self) -> tuple[int, ...]:
        """The training steps that are recorded."""
        return next((kind.steps for kind in self.kinds if kind.kind == "scalars"), ())

    def document(self) -> InfoDocument:
        """Return what ``steptrace info --json`` prints."""
        attributes = self.attributes
        same = {
            field.name: getattr(attributes, field.name)
            for field in dataclasses.fields(TraceAttributesDocument)
        }
        return InfoDocument(
            path=self.path,
            **same,
            loss_function=attributes.loss,
            loss=None if self.loss is None else Ends(*self.loss),
            validation={name: Ends(*ends) for name, ends in self.validation.items()},
            kinds=tuple(kind.document() for kind in self.kinds),
            stored_bytes=self.stored_bytes,
            journal_bytes=self.journal_bytes,
            coverage=self.coverage,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        fields: dict[str, Any] = as_json(self.document())
        return fields


def describe(trace: TraceOrPath, path: str | Location | None = None) -> TraceInfo:
    """Describe a trace without reading any tensor.

    Parameters
    ----------
    trace
        A trace, or its path.
    path
        Path of the trace, to count its files. By default, the path that it was opened from.

    Returns
    -------
    TraceInfo
        Sizes in bytes, steps as optimizer updates counted from 0.

    Raises
    ------
    TraceError
        If `trace` is a tree that was not opened from a path, and `path` is not given.

    Examples
    --------
    >>> describe("run.zarr").loss  # doctest: +SKIP
    (2.31, 0.08)
    """
    path = trace_location(trace) if path is None else locate(path)
    trace = opened(trace)
    stored = _stored_bytes(path)
    kinds = [_kind_info(trace, kind, stored) for kind in KINDS if tensor_paths(trace, kind)]
    if STATISTICS in trace.children:
        kinds.append(_statistics_info(trace.children[STATISTICS], stored))
    attributes = trace_attributes(trace)
    arrays = {f"{kind}/{tensor}" for kind in KINDS for tensor in tensor_paths(trace, kind)}
    return TraceInfo(
        path=str(path),
        attributes=attributes,
        kinds=tuple(kinds),
        loss=_first_and_last(trace, "scalars").get(LOSS),
        validation=_first_and_last(trace, "validation"),
        stored_bytes=sum(stored.values()),
        journal_bytes=_folder_bytes(journal_path(path)),
        coverage=coverage(attributes, arrays),
    )


def _kind_info(trace: xr.DataTree, kind: Any, stored: Mapping[str, int]) -> KindInfo:
    node = trace.children[kind]
    return KindInfo(
        kind=kind,
        tensors=len(tensor_paths(trace, kind)),
        steps=tuple(recorded_steps(node)),
        raw_bytes=_raw_bytes(node),
        stored_bytes=None if is_derived(trace, kind) else stored.get(kind, 0),
    )


def _statistics_info(node: xr.DataTree, stored: Mapping[str, int]) -> KindInfo:
    steps = {step for child in node.children.values() for step in recorded_steps(child)}
    return KindInfo(
        kind=STATISTICS,
        tensors=sum(int(child.sizes.get("tensor", 0)) for child in node.children.values()),
        steps=tuple(sorted(steps)),
        raw_bytes=_raw_bytes(node),
        stored_bytes=stored.get(STATISTICS, 0),
    )


def _raw_bytes(node: xr.DataTree) -> int:
    return sum(int(array.nbytes) for group in node.subtree for array in group.data_vars.values())


def _first_and_last(trace: xr.DataTree, kind: Kind) -> dict[str, tuple[float, float]]:
    """Return the first and the last value of each number of a kind that has one for each step."""
    node = trace.children.get(kind)
    if node is None or not node.sizes.get(STEP):
        return {}
    ends = {
        name: np.asarray(array.isel({STEP: [0, -1]}), dtype=np.float64)
        for name, array in node.data_vars.items()
    }
    return {str(name): (float(first), float(last)) for name, (first, last) in ends.items()}


def _stored_bytes(path: Location) -> dict[str, int]:
    """Return bytes on disk by top-level group; those of the root's own files under ``""``."""
    sizes: dict[str, int] = {}
    for name, size in file_sizes(path).items():
        head, separator, _ = name.partition("/")
        group = head if separator else ""
        sizes[group] = sizes.get(group, 0) + size
    return sizes


def _folder_bytes(folder: Path) -> int:
    total = 0
    for file in folder.glob("*"):
        try:
            total += file.stat().st_size
        except FileNotFoundError:  # the recorder has just moved it
            continue
    return total
