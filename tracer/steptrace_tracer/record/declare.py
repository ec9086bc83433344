"""From the arrays of a step to the declaration that the journal begins with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.errors import TraceError
from steptrace_schema.format.array_table import definition
from steptrace_schema.format.attributes import Missing
from steptrace_schema.format.layout import (
    ArraySpec,
    feature_dims,
    resolve_dims,
    split_key,
    variable_dims,
)
from steptrace_schema.names import (
    BATCH,
    KEEP_BITS,
    SAMPLE,
    SAMPLE_DIGEST,
    SAMPLE_ID,
    SAMPLE_LOSS,
    SAMPLE_STATISTICS,
    SAMPLE_WEIGHT,
    STATISTIC,
    Kind,
)
from steptrace_tracer.record.precision import is_rounded

if TYPE_CHECKING:
    import numpy.typing as npt

    from steptrace_schema.format.policy import Policy

_FIXED_KINDS: Final = ("weights", "gradients", "updates", "optimizer")
_PROBE_KINDS: Final = ("probe", "probe_gradients")
OF_THE_BATCH: Final = (*(SAMPLE_DIGEST, SAMPLE_ID, SAMPLE_LOSS, SAMPLE_STATISTICS, SAMPLE_WEIGHT),)
"""Arrays of `inputs` that have a value for every sample of the batch."""

Arrays = Mapping[str, "npt.NDArray[Any]"]


def specify(
    arrays: Arrays, policy: Policy, known: tuple[ArraySpec, ...], *, described: bool = False
) -> tuple[ArraySpec, ...]:
    """Return the table of arrays that has room for `arrays` and for all that is `known`.

    Parameters
    ----------
    arrays
        ``kind/path`` to the value at one step, without the step dimension.
    policy
        Says how many samples are kept, which a smaller batch does not change, and how exactly.
    known
        The table so far. It is returned itself where nothing is new or larger.
    described
        Whether arrays that are only described are there as their statistics.

    Raises
    ------
    TraceError
        If an array is of another kind than in the table: of another model.
    """
    table = {spec.key: spec for spec in known}
    # The statistics that a resumed trace has of a tensor do not say what it is like.
    told = {key: spec for key, spec in table.items() if described or not spec.holds_statistics}
    for key, values in arrays.items():
        if key in told:
            _refuse_other(key, values, told[key])
    unknown = {k: v for k, v in arrays.items() if k not in told or not _fits(v, told[k])}
    if not unknown:
        return known
    for key, values in unknown.items():
        new, old = _specify(key, values, policy, described=described), told.get(key)
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


def _specify(key: str, values: npt.NDArray[Any], policy: Policy, *, described: bool) -> ArraySpec:
    kind, path = split_key(key)
    if policy.only_describes(kind):
        axes = tuple(f"axis_{i}" for i in range(1, values.ndim + 1))
        dims = (STATISTIC,) if described else axes
        return ArraySpec(kind, path, dims, values.shape, str(values.dtype), statistics_only=True)
    known = definition(kind, path)
    dims, shape = _dims(kind, path, values.ndim), values.shape
    if dims[:1] == (SAMPLE,) and kind not in _PROBE_KINDS:
        shape = (max(policy.sample_count, shape[0]), *shape[1:])
    attributes = known.attributes() if known else {}
    keep_bits = policy.keep_bits(kind)
    if keep_bits is not None and is_rounded(str(values.dtype), keep_bits):
        attributes[KEEP_BITS] = keep_bits
    return ArraySpec(
        kind=kind,
        path=path,
        dims=dims,
        shape=shape,
        dtype=str(values.dtype),
        static=is_static(kind, path),
        attributes=attributes,
    )


def _dims(kind: Kind, path: str, rank: int) -> tuple[str, ...]:
    if kind in _FIXED_KINDS:
        return variable_dims(rank)
    if kind == "scalars" or rank == 0:
        return ()
    if kind == "logged":
        return tuple(f"axis_{i}" for i in range(1, rank + 1))
    if kind == "inputs" and path in OF_THE_BATCH:
        return (BATCH, STATISTIC)[:rank]
    return (SAMPLE, *feature_dims(rank - 1))


def is_static(kind: Kind, path: str) -> bool:
    """Whether an array is the same at every step: the probe's inputs."""
    return kind == "probe" and "/" not in path


def has_samples(kind: Kind, path: str) -> bool:
    """Whether an array has a row for each recorded sample of the batch."""
    if kind == "inputs":
        return path not in OF_THE_BATCH
    return kind in ("activations", "activation_gradients")


def only_described(specs: Iterable[ArraySpec]) -> tuple[Missing, ...]:
    """Return the tensors of which only the statistics are recorded, as the trace lists them."""
    reason = "only its statistics are recorded, as the policy asks"
    return tuple(
        Missing(kind=spec.kind, path=spec.path, reason=reason)
        for spec in specs
        if spec.statistics_only
    )


def declared_paths(keys: Iterable[str], missing: Iterable[Missing]) -> dict[Kind, tuple[str, ...]]:
    """Return what the policy covers: all that has arrived, and all that is known to be missing."""
    found: dict[Kind, list[str]] = {}
    for kind, path in (*map(split_key, keys), *((m.kind, m.path) for m in missing)):
        found.setdefault(kind, []).append(path)
    return {kind: tuple(dict.fromkeys(paths)) for kind, paths in found.items()}
