"""How arrays sit in a trace: their paths, dimension names and fill values."""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from steptrace_schema.errors import TraceError
from steptrace_schema.format.declared import (
    ELEMENT_TYPES,
    checked_attributes,
    checked_dims,
    checked_element_type,
    checked_flag,
    checked_kind,
    checked_path,
    checked_reason,
    checked_shape,
)
from steptrace_schema.names import BATCH, IN, KINDS, OUT, SAMPLE, STATISTIC, STEP, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FIXED_DIMS = frozenset({STEP, SAMPLE, BATCH})

_FEATURE_DIMS: dict[int, tuple[str, ...]] = {
    1: ("unit",),
    2: ("time", "unit"),
    3: ("height", "width", "channel"),
    4: ("depth", "height", "width", "channel"),
}

_KERNEL_DIMS: dict[int, tuple[str, ...]] = {
    1: (OUT,),
    2: (IN, OUT),
    3: ("kw", IN, OUT),
    4: ("kh", "kw", IN, OUT),
    5: ("kd", "kh", "kw", IN, OUT),
}


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """One array of a trace, as it is declared before data arrives.

    Parameters
    ----------
    kind
        The top-level group.
    path
        Path below the kind's group, segments joined by ``/``: ``"sequential/dense/kernel"``.
    dims
        Names of the dimensions of one row, without ``step``.
    shape
        Largest extent of one row along `dims`; a smaller row is padded with the fill value.
    dtype
        NumPy name of the element type, ``"float32"``.
    static
        True for an array without a ``step`` dimension, written once.
    attributes
        Attributes of the array in the store; valid JSON.
    statistics_only
        True where the store has no array, but statistics of it. Where `dims` are (statistic,),
        records hold these in its place.
    absent
        Why the records of some steps have no value of it, where that is known. It is said in the
        trace's ``missing``, with the steps.
    """

    kind: Kind
    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    static: bool = False
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    statistics_only: bool = False
    absent: str | None = None

    @property
    def key(self) -> str:
        """The array's path in the store, ``kind/path``; also its name in a journal record."""
        return f"{self.kind}/{self.path}"

    @property
    def holds_statistics(self) -> bool:
        """Whether records hold the statistics of the tensor in its place."""
        return self.statistics_only and self.dims == (STATISTIC,)

    @property
    def group(self) -> str:
        """The path of the group that holds the array."""
        return str(PurePosixPath(self.key).parent)

    def to_dict(self) -> dict[str, Any]:
        """Return the array's declaration as JSON-ready values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ArraySpec:
        """Rebuild a declaration from :meth:`to_dict`; fields of later versions are left out.

        Raises
        ------
        ValueError, KeyError, TypeError
            If it is one that no array of a trace has.
        """
        dtype = checked_element_type(fields["dtype"])
        shape = checked_shape(fields["shape"], ELEMENT_TYPES[dtype])
        return cls(
            kind=checked_kind(fields["kind"]),
            path=checked_path(fields["path"]),
            dims=checked_dims(fields["dims"], len(shape)),
            shape=shape,
            dtype=dtype,
            static=checked_flag(fields.get("static", False)),
            attributes=checked_attributes(fields.get("attributes", {})),
            statistics_only=checked_flag(fields.get("statistics_only", False)),
            absent=checked_reason(fields.get("absent")),
        )


def feature_dims(rank: int) -> tuple[str, ...]:
    """Return names for the dimensions of one sample's data with `rank` dimensions.

    Examples
    --------
    >>> feature_dims(3)
    ('height', 'width', 'channel')
    >>> feature_dims(0)
    ()
    """
    if rank == 0:
        return ()
    return _FEATURE_DIMS.get(rank, tuple(f"axis_{i}" for i in range(1, rank + 1)))


def variable_dims(rank: int) -> tuple[str, ...]:
    """Return names for the dimensions of a layer's variable with `rank` dimensions.

    The last one is always ``out``, the output unit (or filter) that the values belong to.

    Examples
    --------
    >>> variable_dims(4)
    ('kh', 'kw', 'in', 'out')
    """
    if rank == 0:
        return ()
    return _KERNEL_DIMS.get(rank, (*(f"axis_{i}" for i in range(1, rank)), OUT))


def resolve_dims(arrays: Iterable[ArraySpec]) -> list[ArraySpec]:
    """Rename dimensions so that no array disagrees with its group or an ancestor group.

    An xarray DataTree refuses a group whose dimension has another size than the same dimension of
    an ancestor. A dimension that would disagree gets the smallest suffix ``_1``, ``_2``, ... with
    which it does not. Arrays are taken parents first, so that the outer name stays plain.

    Parameters
    ----------
    arrays
        All arrays of a trace.

    Returns
    -------
    list of ArraySpec
        The same arrays in the same order.
    """
    specs = list(arrays)
    order = sorted(range(len(specs)), key=lambda i: (specs[i].group.count("/"), i))
    sizes: dict[str, dict[str, int]] = {}
    for i in order:
        spec = specs[i]
        visible: dict[str, int] = {}
        for group in (*_ancestors(spec.group), spec.group):
            visible |= sizes.get(group, {})
        used: list[str] = []
        for dim, size in zip(spec.dims, spec.shape, strict=True):
            used.append(_agreeing_name(dim, size, visible, used))
        own = sizes.setdefault(spec.group, {})
        own.update(zip(used, spec.shape, strict=True))
        specs[i] = dataclasses.replace(spec, dims=tuple(used))
    return specs


def _ancestors(group: str) -> list[str]:
    parts = group.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]


def _agreeing_name(dim: str, size: int, visible: dict[str, int], used: Sequence[str]) -> str:
    name, suffix = dim, 0
    while name in used or visible.get(name, size) != size:
        if dim in _FIXED_DIMS and name not in used:
            msg = f"dimension '{dim}' has sizes {visible[name]} and {size} in one group of a trace"
            raise TraceError(msg)
        suffix += 1
        name = f"{dim}_{suffix}"
    return name


def fill_value(dtype: str) -> Any:
    """Return what never-written elements of `dtype` read as: NaN, -1, the maximum, or False."""
    kind = np.dtype(dtype).kind
    if kind in "fc":
        return float("nan")
    if kind == "u":
        return int(np.iinfo(dtype).max)
    return False if kind == "b" else -1


def split_key(key: str) -> tuple[Kind, str]:
    """Split ``kind/path`` into its kind and path.

    Raises
    ------
    TraceError
        If the first segment is not a kind.
    """
    head, _, path = key.partition("/")
    for kind in KINDS:
        if head == kind and path:
            return kind, path
    msg = f"'{key}' does not begin with a kind of data; the kinds are {', '.join(KINDS)}"
    raise TraceError(msg)
