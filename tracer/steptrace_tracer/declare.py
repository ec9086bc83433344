"""From the arrays of a step to the declaration that the journal begins with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from steptrace_schema.arrays import definition
from steptrace_schema.errors import TraceError
from steptrace_schema.layout import (
    ArraySpec,
    feature_dims,
    resolve_dims,
    split_key,
    variable_dims,
)
from steptrace_schema.names import BATCH, SAMPLE, SAMPLE_DIGEST, Kind

if TYPE_CHECKING:
    import numpy.typing as npt

    from steptrace_schema.attributes import Missing

_FIXED_KINDS: tuple[Kind, ...] = ("weights", "gradients", "updates")

Arrays = Mapping[str, "npt.NDArray[Any]"]


def specify(arrays: Arrays, samples: int, known: tuple[ArraySpec, ...]) -> tuple[ArraySpec, ...]:
    """Return the table of arrays that has room for `arrays` and for all that is `known`.

    Parameters
    ----------
    arrays
        ``kind/path`` to the value at one step, without the step dimension.
    samples
        How many samples the policy keeps; a smaller batch does not make the array smaller.
    known
        The table so far. It is returned itself where nothing is new or larger.

    Raises
    ------
    TraceError
        If an array is of another kind than in the table: of another model.
    """
    table = {spec.key: spec for spec in known}
    for key, values in arrays.items():
        if key in table:
            _refuse_other(key, values, table[key])
    unknown = {k: v for k, v in arrays.items() if k not in table or not _fits(v, table[k])}
    if not unknown:
        return known
    for key, values in unknown.items():
        new, old = _specify(key, values, samples), table.get(key)
        if old is not None:
            shape = tuple(max(n, o) for n, o in zip(new.shape, old.shape, strict=True))
            new = dataclasses.replace(old, shape=shape)
        table[key] = new
    return tuple(resolve_dims(table.values()))


def _refuse_other(key: str, values: npt.NDArray[Any], spec: ArraySpec) -> None:
    """Refuse what cannot be a row of the array; only batches and sequences differ in length."""
    fixed = spec.kind in _FIXED_KINDS
    if (
        values.ndim == len(spec.shape)
        and str(values.dtype) == spec.dtype
        and (not fixed or values.shape == spec.shape)
    ):
        return
    msg = (
        f"'{key}' has shape {values.shape} and dtype {values.dtype}, and the trace has "
        f"{spec.shape} and {spec.dtype}; a trace is of one model, so record another one into "
        "another path"
    )
    raise TraceError(msg)


def _fits(values: npt.NDArray[Any], spec: ArraySpec) -> bool:
    return all(n <= room for n, room in zip(values.shape, spec.shape, strict=True))


def _specify(key: str, values: npt.NDArray[Any], samples: int) -> ArraySpec:
    kind, path = split_key(key)
    known = definition(kind, path)
    dims, shape = _dims(kind, path, values.ndim), values.shape
    if dims[:1] == (SAMPLE,) and not (kind == "probe"):
        shape = (max(samples, shape[0]), *shape[1:])
    return ArraySpec(
        kind=kind,
        path=path,
        dims=dims,
        shape=shape,
        dtype=str(values.dtype),
        static=kind == "probe" and "/" not in path,
        attributes=known.attributes() if known else {},
    )


def _dims(kind: Kind, path: str, rank: int) -> tuple[str, ...]:
    if kind in {"weights", "gradients", "updates"}:
        return variable_dims(rank)
    if kind == "scalars" or rank == 0:
        return ()
    if path == SAMPLE_DIGEST:
        return (BATCH,)
    return (SAMPLE, *feature_dims(rank - 1))


def declared_paths(keys: Iterable[str], missing: Iterable[Missing]) -> dict[Kind, tuple[str, ...]]:
    """Return what the policy covers: all that has arrived, and all that is known to be missing."""
    found: dict[Kind, list[str]] = {}
    for kind, path in (*map(split_key, keys), *((m.kind, m.path) for m in missing)):
        found.setdefault(kind, []).append(path)
    return {kind: tuple(dict.fromkeys(paths)) for kind, paths in found.items()}
