"""What the ``zarr.json`` of an array says, checked before anything is read or written by it.

zarr-python reads more than a trace can hold: objects, strings, codecs that call other programs'
code. A trace holds numbers, in chunks of a bounded size.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_schema.encoding.codecs import Encoding
from steptrace_schema.encoding.other_codecs import OtherEncoding
from steptrace_schema.errors import TraceError
from steptrace_schema.format.declared import (
    ELEMENT_TYPES,
    checked_attributes,
    checked_element_type,
    checked_shape,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LARGEST_CHUNK: Final = 2**31 - 1
"""Bytes of a chunk before compression, as of blosc."""

_SEPARATORS: Final = {"default": "/", "v2": "."}
_NON_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclasses.dataclass(frozen=True)
class ArrayMetadata:
    """What is known of an array before any of it is read.

    Attributes
    ----------
    key
        Its path in the store.
    shape, dtype, fill_value
        As of the array; the fill value of one that does not fit its type is refused.
    dims
        Names of its dimensions, each of which may lack one; None where it has none at all.
    encoding
        How it is cut and encoded.
    prefix, separator
        How its stored objects are named.
    attributes
        Its attributes.
    """

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill_value: Any
    dims: tuple[str | None, ...] | None
    encoding: Encoding | OtherEncoding
    prefix: str
    separator: str
    attributes: dict[str, Any]

    @classmethod
    def parse(cls, key: str, fields: object) -> ArrayMetadata:
        """Check and read the metadata of an array.

        Parameters
        ----------
        key
            Its path in the store.
        fields
            Its ``zarr.json``, as JSON values.

        Raises
        ------
        ValueError
            If no array of a trace has such metadata.
        """
        try:
            return cls._parse(key, fields)
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            msg = f"its metadata cannot be understood ({type(error).__name__}: {error!s:.200})"
            raise ValueError(msg) from error

    @classmethod
    def _parse(cls, key: str, fields: Any) -> ArrayMetadata:
        if fields["zarr_format"] != 3 or fields["node_type"] != "array":
            msg = f"it is {fields['node_type']!r:.80} of format {fields['zarr_format']!r:.80}"
            raise ValueError(msg)
        name = checked_element_type(fields["data_type"])
        shape = checked_shape(fields["shape"], ELEMENT_TYPES[name])
        if fields.get("storage_transformers"):
            msg = "it has storage transformers, which no trace has"
            raise ValueError(msg)
        dims = fields.get("dimension_names")
        if dims is not None and not (
            len(dims) == len(shape) and all(isinstance(dim, str | None) for dim in dims)
        ):
            msg = f"{dims!r:.80} are not the names of {len(shape)} dimensions"
            raise ValueError(msg)
        keys = fields["chunk_key_encoding"]
        default = _SEPARATORS[keys["name"]]
        separator = keys.get("configuration", {}).get("separator", default)
        if separator not in _SEPARATORS.values():
            msg = f"{separator!r:.80} separates no names of chunks"
            raise ValueError(msg)
        return cls(
            key=key,
            shape=shape,
            dtype=np.dtype(name),
            fill_value=_fill_value(name, fields["fill_value"]),
            dims=None if dims is None else tuple(dims),
            encoding=_encoding(key, fields, len(shape), ELEMENT_TYPES[name]),
            prefix="c" if keys["name"] == "default" else "",
            separator=separator,
            attributes=checked_attributes(fields.get("attributes", {})),
        )

    @property
    def unit(self) -> tuple[int, ...]:
        """Shape of a stored object."""
        return self.encoding.shards or self.encoding.chunks

    def object_name(self, position: Iterable[int]) -> str:
        """Return the name of a stored object, relative to the store.

        Parameters
        ----------
        position
            Where the object is in the array's grid.
        """
        parts = [self.prefix] if self.prefix else []
        parts += map(str, position)
        return f"{self.key}/{self.separator.join(parts) or '0'}"


def _encoding(
    key: str, fields: Mapping[str, Any], rank: int, itemsize: int
) -> Encoding | OtherEncoding:
    if fields["chunk_grid"]["name"] != "regular":
        msg = f"its chunks are {fields['chunk_grid']['name']!r:.80}, where regular ones are read"
        raise ValueError(msg)
    grid = checked_shape(fields["chunk_grid"]["configuration"]["chunk_shape"], itemsize, least=1)
    found: Encoding | OtherEncoding
    try:
        found = Encoding.stated(fields, key)
    except TraceError:
        found = OtherEncoding.stated(grid, fields["codecs"])
    chunks = checked_shape(found.chunks, itemsize, least=1)
    fits = len(grid) == len(chunks) == rank
    if not fits or any(whole % part for whole, part in zip(grid, chunks, strict=True)):
        msg = f"chunks of {chunks} in objects of {grid} do not fit an array of {rank} dimensions"
        raise ValueError(msg)
    if math.prod(chunks) * itemsize > LARGEST_CHUNK:
        msg = f"chunks of {chunks} are larger than {LARGEST_CHUNK} bytes"
        raise ValueError(msg)
    return found


def _fill_value(name: str, value: Any) -> Any:
    """Return a fill value of an element type (Zarr v3, "Fill value list")."""
    kind = np.dtype(name).kind
    if kind == "b" and isinstance(value, bool):
        return value
    if kind in "iu" and type(value) is int:
        if np.iinfo(name).min <= value <= np.iinfo(name).max:
            return value
    elif kind == "f":
        if isinstance(value, str):
            if value in _NON_FINITE:
                return _NON_FINITE[value]
            bits = int(value, 16)
            return float(np.array(bits, f"u{np.dtype(name).itemsize}").view(name))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif kind == "c" and isinstance(value, list) and len(value) == 2:
        part = "float32" if name == "complex64" else "float64"
        return complex(*(_fill_value(part, each) for each in value))
    msg = f"{value!r:.80} is no fill value of {name}"
    raise ValueError(msg)
