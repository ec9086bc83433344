"""Decompressing what a stranger may have written.

The libraries take sizes and offsets from a chunk's header and believe them. Its checksum is no
defence: whoever forges a header also computes a new checksum. So the header is compared with what
is known, and what is decompressed goes into memory of the size that it must have.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numcodecs.blosc
import numcodecs.zstd
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_BLOSC_HEADER: Final = struct.Struct("<4xIII")
"""After two versions, flags and the size of an element: bytes before compression, of a block, and
of the whole compressed chunk (https://github.com/Blosc/c-blosc, README_CHUNK_FORMAT.rst)."""

_ZSTD_MAGIC: Final = bytes.fromhex("28b52ffd")
_ZSTD_HEADER_BYTES: Final = 18


def decompress_blosc(content: npt.NDArray[np.uint8], target: npt.NDArray[Any]) -> None:
    """Decompress a chunk of blosc into a contiguous array.

    Raises
    ------
    ValueError
        If its header is not that of such a chunk, or it cannot be decompressed.
    """
    if len(content) < _BLOSC_HEADER.size:
        msg = f"it has {len(content)} bytes, fewer than a header of blosc"
        raise ValueError(msg)
    size, _, compressed = _BLOSC_HEADER.unpack_from(content.data)
    if size != target.nbytes or compressed != len(content):
        msg = (
            f"blosc's header says that {compressed} bytes hold {size}, where {len(content)} bytes "
            f"are to hold {target.nbytes}"
        )
        raise ValueError(msg)
    try:
        numcodecs.blosc.decompress(content, target)
    except RuntimeError as error:
        msg = f"blosc cannot decompress it ({error})"
        raise ValueError(msg) from error


def decompress_pcodec(content: npt.NDArray[np.uint8], target: npt.NDArray[Any]) -> None:
    """Decompress a chunk of pcodec into a contiguous array.

    Raises
    ------
    ValueError
        If it is no such chunk, or has not as many elements as the array.
    """
    from pcodec import standalone  # here, because only one profile needs it

    values = target.reshape(-1)
    try:
        done = standalone.simple_decompress_into(content.tobytes(), values)
    except (RuntimeError, TypeError) as error:
        msg = f"pcodec cannot decompress it ({error})"
        raise ValueError(msg) from error
    if done.n_processed != len(values) or not done.finished:
        msg = f"pcodec finds {done.n_processed} or more elements, where {len(values)} are expected"
        raise ValueError(msg)


def decompress_zstd(content: npt.NDArray[np.uint8], most: int) -> npt.NDArray[np.uint8]:
    """Decompress a frame of zstd that says how many bytes it holds, at most `most`.

    Raises
    ------
    ValueError
        If it is no such frame.
    """
    size = _zstd_size(content[:_ZSTD_HEADER_BYTES].tobytes())
    if size > most:
        msg = f"zstd's header says that it holds {size} bytes, where {most} are the most"
        raise ValueError(msg)
    target = np.empty(size, np.uint8)
    try:
        numcodecs.zstd.decompress(content, target)
    except RuntimeError as error:
        msg = f"zstd cannot decompress it ({error})"
        raise ValueError(msg) from error
    return target


def _zstd_size(header: bytes) -> int:
    """Return the size that the header of a frame states (RFC 8878, section 3.1.1.1)."""
    if len(header) < 6 or header[:4] != _ZSTD_MAGIC:
        msg = "it is no frame of zstd"
        raise ValueError(msg)
    flags = header[4]
    has_one_segment = flags >> 5 & 1
    begin = 5 + (not has_one_segment) + (0, 1, 2, 4)[flags & 3]
    width = (has_one_segment, 2, 4, 8)[flags >> 6]
    field = header[begin : begin + width]
    if not width or len(field) < width:
        msg = "its frame of zstd does not say how many bytes it holds"
        raise ValueError(msg)
    return int.from_bytes(field, "little") + (256 if width == 2 else 0)
