"""Reading the arrays of a checkpoint that may come from a stranger: no pickle, no links."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steptrace_schema.errors import NotATraceError, TraceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

_SAFETENSORS: Final[dict[str, str]] = {
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "BF16": "<u2",
    "I8": "i1",
    "U8": "u1",
    "I16": "<i2",
    "U16": "<u2",
    "I32": "<i4",
    "U32": "<u4",
    "I64": "<i8",
    "U64": "<u8",
    "BOOL": "?",
}
_DEEPEST: Final = 64
_MOST_ARRAYS: Final = 2**20
_FLOOR: Final = 2**26
_EXPANSION: Final = 1000
"""An array larger than the floor may be at most so many times as large as its bytes in the file."""


@dataclasses.dataclass(frozen=True)
class StoredWeight:
    """One array of a checkpoint.

    Attributes
    ----------
    name
        Its path in the file, with ``/`` between the parts.
    layer
        Name of the layer that it belongs to, as Keras noted it; None where the file does not say.
    index
        Which of the layer's variables it is; None where the file does not say.
    values
        The array; bfloat16 as the float32 of the same value.
    """

    name: str
    layer: str | None
    index: int | None
    values: npt.NDArray[Any]


def read_checkpoint(path: Path) -> list[StoredWeight]:
    """Return the arrays of a Keras ``.weights.h5`` or a safetensors file, in the file's order.

    Parameters
    ----------
    path
        The file. Links, and arrays outside of the file, are refused.

    Raises
    ------
    NotATraceError
        If it is no such file, or holds what is refused.
    TraceError
        If it is HDF5, and h5py is not installed.

    Examples
    --------
    >>> [weight.name for weight in read_checkpoint(Path("model.weights.h5"))]  # doctest: +SKIP
    ['layers/dense/vars/0', 'layers/dense/vars/1']
    """
    if not path.is_file():
        msg = f"{path} is no file; give a .weights.h5 or .safetensors file"
        raise NotATraceError(msg)
    if path.suffix in (".h5", ".hdf5"):
        return _read_h5(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    msg = (
        f"{path} is neither a .weights.h5 nor a .safetensors file; save the weights with "
        "model.save_weights('model.weights.h5')"
    )
    raise NotATraceError(msg)


def _read_safetensors(path: Path) -> list[StoredWeight]:
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        msg = f"{path} cannot be read as safetensors ({error}); save it again"
        raise NotATraceError(msg) from error
    found = []
    for name, entry in entries:
        if (dtype := _SAFETENSORS.get(entry["dtype"])) is None:
            continue  # a type without an equal in NumPy; it is listed as only in the run
        values = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
        if entry["dtype"] == "BF16":
            values = _widened(values)
        found.append(StoredWeight(name.replace(".", "/"), None, None, values))
    return found


def _read_h5(path: Path) -> list[StoredWeight]:
    try:
        import h5py
    except ImportError as error:
        msg = "h5py, which reads .weights.h5, is not installed; pip install 'steptrace[checkpoint]'"
        raise TraceError(msg) from error
    try:
        with h5py.File(path, "r") as file:
            return [*_walk(path, h5py, file, "", 0)]
    except (OSError, RuntimeError, KeyError) as error:
        msg = f"{path} cannot be read as HDF5 ({error}); save it again"
        raise NotATraceError(msg) from error


def _walk(path: Path, h5py: Any, group: Any, where: str, depth: int) -> Iterator[StoredWeight]:
    """Yield the arrays below a group; names with a number at the end by that number."""
    if depth > _DEEPEST:
        msg = f"{path} has groups in more than {_DEEPEST} levels, as no checkpoint has"
        raise NotATraceError(msg)
    count = 0
    for name in sorted(group, key=_natural):
        here = f"{where}/{name}".lstrip("/")
        count += 1
        if group.get(name, getlink=True, getclass=True) is not h5py.HardLink or (
            count > _MOST_ARRAYS
        ):
            msg = f"{path}: '{here}' is a link, or one of too many arrays; it is not followed"
            raise NotATraceError(msg)
        member = group[name]
        if isinstance(member, h5py.Group):
            yield from _walk(path, h5py, member, here, depth + 1)
        elif isinstance(member, h5py.Dataset):
            layer = group.attrs.get("name") if where.endswith("vars") else None
            yield StoredWeight(
                here,
                layer if isinstance(layer, str) else None,
                int(name) if name.isdecimal() and len(name) < 9 else None,
                _values(path, here, member),
            )


def _values(path: Path, name: str, data: Any) -> npt.NDArray[Any]:
    size = math.prod(data.shape) * data.dtype.itemsize
    is_brain = data.attrs.get("dtype") == "bfloat16" and data.dtype.itemsize == 2
    refused = None
    if data.external or data.is_virtual:
        refused = "lies outside of the file"
    elif data.dtype.kind not in "fiub" and not is_brain:
        refused = f"holds {data.dtype}, and no numbers"
    elif size > _FLOOR and size > _EXPANSION * data.id.get_storage_size():
        refused = "would become far larger than it is in the file"
    if refused is not None:
        msg = f"{path}: '{name}' {refused}; it is not read"
        raise NotATraceError(msg)
    values = np.asarray(data[()])
    return _widened(values.view("<u2")) if is_brain else values


def _widened(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the float32 numbers whose upper halves are given, which is what bfloat16 is."""
    return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _natural(name: str) -> tuple[str, int]:
    stem, number = re.fullmatch(r"(.*?)(\d*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    return stem.rstrip("_") if number else stem, int(number or -1)
