"""The fingerprint of a run alone, in one small file that a repository can keep."""

from __future__ import annotations

import base64
import binascii
import os
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import xarray as xr
from pydantic import BaseModel, ConfigDict, ValidationError

from steptrace_analyzer.differences.fingerprints import BLOCK_STEPS, Marks, marks_of
from steptrace_analyzer.trace.open import opened, refuse_unordered, trace_attributes
from steptrace_analyzer.trace.select import get_tensor, has_tensor
from steptrace_analyzer.trace.updates import is_derived
from steptrace_schema.errors import NotATraceError
from steptrace_schema.format.attributes import TraceAttributes
from steptrace_schema.names import ATTRIBUTES_KEY, DIGESTS, KINDS, STATISTICS, STEP, TENSOR, Kind
from steptrace_schema.statistics.digests import UNKNOWN_DIGEST, row_digests
from steptrace_schema.storage.names import open_to_read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from steptrace_analyzer.trace.open import TraceOrPath

_FORMAT: Final = "steptrace fingerprint 1"
_LARGEST_FILE: Final = 2**28


class _Digests(BaseModel):
    """Those of one kind."""

    model_config = ConfigDict(extra="forbid", strict=True)

    steps: list[int]
    tensors: list[str]
    digests: str
    """Base64 of int64, little-endian, dims (step, tensor) in C order."""


class _Fingerprint(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["steptrace fingerprint 1"]
    name: str
    attributes: TraceAttributes
    kinds: dict[Kind, _Digests]


def fingerprint(trace: TraceOrPath) -> xr.DataTree:
    """Return the digests of everything that a trace holds, as a tree without tensors.

    Parameters
    ----------
    trace
        A trace, or its path. Where it has no digests they are computed, for which it is read.

    Returns
    -------
    xarray.DataTree
        ``statistics/<kind>/digests``, int64, dims (step, tensor), and the root attributes. Numbers
        such as the loss have digests too. Every function that compares takes it like a trace.

    Examples
    --------
    >>> first_divergence(fingerprint("golden.zarr"), "run.zarr").verdict  # doctest: +SKIP
    'equal'
    """
    tree = opened(trace)
    groups: dict[str, xr.Dataset] = {
        "/": xr.Dataset(attrs={ATTRIBUTES_KEY: trace_attributes(tree).model_dump(mode="json")})
    }
    for kind in KINDS:
        if kind == "updates" and is_derived(tree, kind):
            continue
        columns = dict(_columns(tree, marks_of(tree, kind)))
        if not columns:
            continue
        steps = np.unique(np.concatenate([steps for steps, _ in columns.values()]))
        table = np.full((len(steps), len(columns)), UNKNOWN_DIGEST, np.int64)
        for number, (own, digests) in enumerate(columns.values()):
            table[np.searchsorted(steps, own), number] = digests
        groups[f"/{STATISTICS}/{kind}"] = _dataset(steps, [*columns], table)
    return xr.DataTree.from_dict(groups, name=tree.name)


def is_fingerprint(tree: xr.DataTree) -> bool:
    """Whether a tree holds the digests of a run alone, as :func:`fingerprint` returns them."""
    return list(tree.children) == [STATISTICS] and all(
        set(group.data_vars) == {DIGESTS} for group in tree.children[STATISTICS].children.values()
    )


def write_fingerprint(trace: TraceOrPath, path: Path) -> None:
    """Write the fingerprint of a trace into a JSON file.

    Parameters
    ----------
    trace
        A trace, or its path.
    path
        The file; it is replaced where it is there.

    Examples
    --------
    >>> write_fingerprint("run.zarr", Path("run.fp.json"))  # doctest: +SKIP
    """
    tree = fingerprint(trace)
    kinds = {}
    for kind in KINDS:
        marks = marks_of(tree, kind)
        if marks.digests is not None:
            content = np.ascontiguousarray(marks.digests, dtype="<i8").tobytes()
            kinds[kind] = _Digests(
                steps=marks.steps.tolist(),
                tensors=list(marks.names),
                digests=base64.b64encode(content).decode("ascii"),
            )
    document = _Fingerprint(
        format=_FORMAT, name=tree.name or "run", attributes=trace_attributes(tree), kinds=kinds
    )
    path.write_text(document.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_fingerprint(path: Path) -> xr.DataTree:
    """Return the fingerprint that a file holds, as :func:`fingerprint` does.

    Raises
    ------
    NotATraceError
        If it is no such file.

    Examples
    --------
    >>> first_divergence(read_fingerprint(Path("run.fp.json")), "run.zarr")  # doctest: +SKIP
    """
    advice = "give a file that 'steptrace fingerprint RUN -o FILE' has written"
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        msg = f"{path} {what}; {advice}"
        raise NotATraceError(msg)
    if path.stat().st_size > _LARGEST_FILE:
        msg = f"{path} is larger than any fingerprint; {advice}"
        raise NotATraceError(msg)
    try:
        with os.fdopen(open_to_read(path), "rb") as file:
            found = _Fingerprint.model_validate_json(file.read(_LARGEST_FILE))
        for kind, digests in found.kinds.items():
            refuse_unordered(f"{kind}/{STEP}", np.array(digests.steps, np.int64))
            if len({*digests.tensors}) < len(digests.tensors):
                msg = f"'{kind}' names a tensor twice"
                raise ValueError(msg)
        groups = {
            f"/{STATISTICS}/{kind}": _dataset(
                np.array(digests.steps, np.int64), digests.tensors, _decoded(digests)
            )
            for kind, digests in found.kinds.items()
        }
    except (ValidationError, ValueError, OverflowError, binascii.Error) as error:
        why = str(error).splitlines()[0]
        msg = f"{path} is no fingerprint of a run ({why}); {advice}"
        raise NotATraceError(msg) from error
    root = xr.Dataset(attrs={ATTRIBUTES_KEY: found.attributes.model_dump(mode="json")})
    return xr.DataTree.from_dict({"/": root, **groups}, name=path.name)


def _decoded(digests: _Digests) -> npt.NDArray[np.int64]:
    content = np.frombuffer(base64.b64decode(digests.digests, validate=True), "<i8")
    return content.reshape(len(digests.steps), len(digests.tensors)).astype(np.int64)


def _dataset(
    steps: npt.NDArray[np.int64], tensors: list[str], digests: npt.NDArray[np.int64]
) -> xr.Dataset:
    return xr.Dataset(
        {DIGESTS: ((STEP, TENSOR), digests)}, coords={STEP: steps, TENSOR: list(tensors)}
    )


def _columns(
    tree: xr.DataTree, marks: Marks
) -> Iterator[tuple[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]]:
    """Yield every tensor of a kind with its steps and digests."""
    if marks.digests is not None:
        table = np.asarray(marks.digests)
        for number, name in enumerate(marks.names):
            yield name, (marks.steps, table[:, number])
    computed = marks.plain if marks.digests is not None else marks.paths
    for path in computed:
        if not has_tensor(tree, marks.kind, path):
            continue
        array: Any = get_tensor(tree, marks.kind, path)
        if array.dims[:1] != (STEP,):
            continue
        steps = np.asarray(array.coords[STEP], dtype=np.int64)
        parts = [
            row_digests(np.asarray(array[start : start + BLOCK_STEPS]))
            for start in range(0, len(steps), BLOCK_STEPS)
        ]
        yield path, (steps, np.concatenate([np.empty(0, np.int64), *parts]))
