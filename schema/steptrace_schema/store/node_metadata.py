"""The metadata of groups and arrays, as zarr-python writes them into ``zarr.json``.

zarr-python takes 5 ms to make an array, longer than it takes to write what one holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_schema.format.layout import fill_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from steptrace_schema.encoding.codecs import Encoding

_SEPARATOR: Final = "."  # with "/", each file would be in a separate folder

GROUP: Final[Mapping[str, Any]] = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
"""The metadata of a group."""


def array_metadata(
    shape: tuple[int, ...],
    dtype: str,
    dims: tuple[str, ...],
    encoding: Encoding,
    attributes: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the metadata of an array.

    Parameters
    ----------
    shape, dtype, dims
        Its shape, NumPy's name of its element type, and the names of its dimensions.
    encoding
        How it is cut and encoded.
    attributes
        Its attributes; valid JSON.
    """
    fill = fill_value(dtype)
    unit = encoding.shards or encoding.chunks
    return {
        "shape": list(shape),
        "data_type": np.dtype(dtype).name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(unit)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": _SEPARATOR}},
        "fill_value": "NaN" if isinstance(fill, float) else fill,
        "codecs": encoding.codecs(np.dtype(dtype).itemsize),
        "attributes": dict(attributes),
        **({"dimension_names": list(dims)} if dims else {}),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def object_name(metadata: Mapping[str, Any], position: Iterable[int]) -> str:
    """Return the name of one stored object of an array, below the array's.

    Parameters
    ----------
    metadata
        Those of the array, as :func:`array_metadata` makes them, or an earlier version did.
    position
        Where the object is in the array's grid.

    Examples
    --------
    >>> object_name({"chunk_key_encoding": {"configuration": {"separator": "."}}}, (0, 2))
    'c.0.2'
    """
    separator: str = metadata["chunk_key_encoding"]["configuration"]["separator"]
    return separator.join(["c", *map(str, position)])
