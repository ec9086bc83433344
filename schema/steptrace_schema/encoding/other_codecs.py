"""Decoding arrays of other programs: chains of core codecs that no profile uses.

Within the same bounds as our own codecs: each one gets a limit, and returns no more than that.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from steptrace_schema.encoding.codecs import checksum
from steptrace_schema.encoding.decompress import (
    decompress_blosc,
    decompress_pcodec,
    decompress_zstd,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SHARDS: Final = "sharding_indexed"
_BYTE_ORDERS: Final[dict[str, Literal["<", ">"]]] = {"little": "<", "big": ">"}
_COMPRESSORS: Final = ("blosc", "zstd", "gzip", "crc32c")


@dataclasses.dataclass(frozen=True)
class OtherEncoding:
    """How an array of another program is cut and encoded, to decode it.

    Attributes
    ----------
    chunks, shards
        As of an `Encoding`.
    orders
        The orders of axes of its ``transpose`` codecs, first to last.
    byte_order
        ``=`` where the elements are one byte, or pcodec has them.
    is_pcodec
        Whether pcodec makes bytes of the elements.
    compressors
        Names of the codecs from bytes to bytes, first to last.
    """

    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    orders: tuple[tuple[int, ...], ...]
    byte_order: Literal["<", ">", "="]
    is_pcodec: bool
    compressors: tuple[str, ...]
    step_last: bool = False

    @classmethod
    def stated(cls, grid: tuple[int, ...], codecs: Sequence[Mapping[str, Any]]) -> OtherEncoding:
        """Return how an array is encoded that has these codecs.

        Parameters
        ----------
        grid
            Shape of a stored object.
        codecs
            Of the array's metadata.

        Raises
        ------
        ValueError, KeyError, TypeError, AttributeError
            If they are others than core codecs, or pcodec.
        """
        chunks, shards = grid, None
        if codecs[0]["name"] == _SHARDS:
            inner = codecs[0]["configuration"]
            if len(codecs) > 1 or inner.get("index_location", "end") != "end":
                _refuse(codecs)
            if [codec["name"] for codec in inner["index_codecs"]] != ["bytes", "crc32c"]:
                _refuse(codecs)
            chunks, shards, codecs = tuple(inner["chunk_shape"]), grid, inner["codecs"]
        orders: list[tuple[int, ...]] = []
        byte_order: Literal["<", ">", "="] | None = None
        is_pcodec = False
        compressors: list[str] = []
        for codec in codecs:
            name, settings = codec["name"], codec.get("configuration", {})
            if byte_order is None and name == "transpose":
                order = tuple(settings["order"])
                if sorted(order) != list(range(len(chunks))):
                    _refuse(codecs)
                orders.append(order)
            elif byte_order is None and name == "bytes":
                byte_order = _BYTE_ORDERS[settings["endian"]] if "endian" in settings else "="
            elif byte_order is None and name == "numcodecs.pcodec":
                byte_order, is_pcodec = "=", True
            elif byte_order is not None and name in _COMPRESSORS:
                compressors.append(name)
            else:
                _refuse(codecs)
        if byte_order is None:
            _refuse(codecs)
        return cls(chunks, shards, tuple(orders), byte_order, is_pcodec, tuple(compressors))

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of a chunk as `decode_into` returns it."""
        return self.chunks

    def step_first(self, chunks: npt.NDArray[Any], axis: int = 0) -> npt.NDArray[Any]:
        """Return chunks as they are: `decode_into` has put their axes in order."""
        return chunks

    def decode_into(self, data: bytes | memoryview, target: npt.NDArray[Any]) -> None:
        """Decode one chunk into a contiguous array of the shape `chunks`.

        Raises
        ------
        ValueError
            If a checksum does not fit, or its size is not that of a chunk.
        """
        content: Any = np.frombuffer(data, np.uint8)
        shape = self.chunks
        for order in self.orders:
            shape = tuple(shape[axis] for axis in order)
        stored = np.empty(shape, target.dtype.newbyteorder(self.byte_order))
        size = stored.nbytes
        if self.is_pcodec:
            decompress_pcodec(self._decompressed(content, size + size // 8 + 4096), stored)
        else:
            content = self._decompressed(content, size)
            stored[...] = np.frombuffer(content, stored.dtype).reshape(shape)
        for order in reversed(self.orders):
            stored = stored.transpose(np.argsort(order))
        target[...] = stored

    def decode(self, data: bytes | memoryview, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Decode one chunk and return it. Raises what `decode_into` does."""
        chunk: npt.NDArray[Any] = np.empty(self.chunks, dtype)
        self.decode_into(data, chunk)
        return chunk

    def _decompressed(self, content: Any, most: int) -> Any:
        """Undo the codecs from bytes to bytes; what they give is at most `most` bytes."""
        for number, name in reversed([*enumerate(self.compressors)]):
            # What is compressed twice, or has a checksum inside, is a little longer than the chunk.
            limit = most + (4096 + most // 8 if number else 0)
            if name == "crc32c":
                content, stored = content[:-4], content[-4:].tobytes()
                if checksum(content) != stored:
                    msg = f"the checksum is {checksum(content).hex()}, not {stored.hex()}"
                    raise ValueError(msg)
            elif name == "gzip":
                content = _gunzip(content, limit)
            elif name == "zstd":
                content = decompress_zstd(content, limit)
            else:
                size = int.from_bytes(content[4:8].tobytes(), "little")
                if size > limit:
                    msg = f"blosc's header says that it holds {size} bytes, where {limit} are most"
                    raise ValueError(msg)
                larger = np.empty(size, np.uint8)
                decompress_blosc(content, larger)
                content = larger
        return content


def _refuse(codecs: object) -> NoReturn:
    msg = f"it is encoded by {codecs!r:.300}, which this steptrace cannot decode"
    raise ValueError(msg)


def _gunzip(content: npt.NDArray[np.uint8], most: int) -> npt.NDArray[np.uint8]:
    unzip = zlib.decompressobj(wbits=31)
    try:
        found = unzip.decompress(content.tobytes(), most + 1)
    except zlib.error as error:
        msg = f"gzip cannot decompress it ({error})"
        raise ValueError(msg) from error
    if len(found) > most or not unzip.eof:
        msg = f"gzip finds more than {most} bytes, or no end"
        raise ValueError(msg)
    return np.frombuffer(found, np.uint8)
