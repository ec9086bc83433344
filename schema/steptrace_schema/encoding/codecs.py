"""How arrays are cut into chunks and shards, and encoded."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import warnings
from typing import TYPE_CHECKING, Any, Final

import numcodecs
import numpy as np
import numpy.typing as npt
from google_crc32c import value as crc32c

from steptrace_schema.encoding.decompress import decompress_blosc, decompress_pcodec
from steptrace_schema.encoding.scratch import Scratch
from steptrace_schema.encoding.strided_copy import copy_strided
from steptrace_schema.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import zarr
    from typing_extensions import Buffer


_TOGETHER = 4 * 2**20  # bytes of chunks that are put in order at once

_SCRATCH: Final = Scratch()


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How one array is cut and encoded, to declare it and to encode its chunks.

    Chunks are encoded here as Zarr would, but without its work for each chunk, which takes longer
    than the compression.

    Attributes
    ----------
    chunks
        Shape of one compressed chunk.
    shards
        Shape of one stored object that holds many chunks; None where each chunk is one.
    step_last
        Whether the first axis goes last before compression.
    blosc, pcodec
        The compressor: one of them, or none; its configuration, as the array's metadata say it.
    """

    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    step_last: bool = False
    blosc: Mapping[str, Any] | None = None
    pcodec: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> Encoding:
        """Return how an array of a store is encoded.

        Raises
        ------
        TraceError
            If it is encoded in a way that no profile uses.
        """
        # Lists where Zarr has tuples.
        return cls.stated(json.loads(json.dumps(array.metadata.to_dict())), array.path)

    @classmethod
    def stated(cls, metadata: Mapping[str, Any], key: str) -> Encoding:
        """Return how an array is encoded that has these metadata.

        Raises
        ------
        TraceError
            If it is encoded in a way that no profile uses.
        """
        codecs = metadata.get("codecs")
        try:
            found = cls._of_codecs(metadata["chunk_grid"]["configuration"]["chunk_shape"], codecs)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            found = None
        # The order of bytes may be left out where an element is one byte.
        if found is None or codecs not in (found.codecs(1), found.codecs(2)):
            msg = (
                f"array '{key}' is encoded by {codecs}, which this steptrace does not write; "
                "record into another trace"
            )
            raise TraceError(msg)
        return found

    @classmethod
    def _of_codecs(cls, grid: Sequence[int], codecs: Any) -> Encoding:
        chunks, shards = tuple(grid), None
        if codecs[0]["name"] == _SHARDS:
            inner = codecs[0]["configuration"]
            chunks, shards, codecs = tuple(inner["chunk_shape"]), chunks, inner["codecs"]
        stated = {codec["name"]: codec.get("configuration") for codec in codecs}
        blosc, pcodec = stated.get(_BLOSC), stated.get(_PCODEC)
        if blosc is not None:
            _refuse_other_settings(blosc, _BLOSC_SETTINGS, _BLOSC_SETTINGS)
        if pcodec is not None:
            _refuse_other_settings(pcodec, _PCODEC_SETTINGS, ())
        return cls(chunks, shards, _TRANSPOSE in stated, blosc, pcodec)

    def codecs(self, itemsize: int) -> list[dict[str, Any]]:
        """Return what an array's metadata say of its codecs, for elements of so many bytes."""
        in_order = {"name": "bytes"} if itemsize == 1 else _LITTLE_ENDIAN
        chain: list[dict[str, Any]] = []
        if self.step_last:
            order = list(_step_last(len(self.chunks)))
            chain.append({"name": _TRANSPOSE, "configuration": {"order": order}})
        if self.pcodec is not None:
            chain.append({"name": _PCODEC, "configuration": dict(self.pcodec)})
        else:
            chain.append(in_order)
        if self.blosc is not None:
            chain.append({"name": _BLOSC, "configuration": dict(self.blosc)})
        chain.append(_CRC32C)
        if self.shards is None:
            return chain
        shard = {
            "chunk_shape": list(self.chunks),
            "codecs": chain,
            "index_codecs": [_LITTLE_ENDIAN, _CRC32C],
            "index_location": "end",
        }
        return [{"name": _SHARDS, "configuration": shard}]

    def encode(self, chunk: npt.NDArray[Any]) -> tuple[Buffer, bytes]:
        """Encode one chunk of the shape `chunks`; return it, and its checksum."""
        (encoded,) = self.encode_row(chunk)
        return encoded

    def encode_row(self, row: npt.NDArray[Any]) -> Iterator[tuple[Buffer, bytes]]:
        """Encode chunks that lie beside each other along the last axis.

        They are put in order together: one after the other, each would read a few bytes of every
        line of memory that they share.

        Parameters
        ----------
        row
            Of the shape `chunks`, but for the last axis, which is one or more times as long.

        Yields
        ------
        tuple
            A chunk, and its checksum.
        """
        split = row.reshape(*row.shape[:-1], -1, *self.chunks[-1:])
        beside = np.moveaxis(split, row.ndim - 1, 0) if row.ndim else split
        at_once = max(1, _TOGETHER // max(1, row.nbytes // len(beside)))
        for start in range(0, len(beside), at_once):
            yield from self._encode_together(beside[start : start + at_once])

    def _encode_together(self, chunks: npt.NDArray[Any]) -> list[tuple[Buffer, bytes]]:
        shape = (len(chunks), *self.stored_shape)
        if self._codec is None:
            stored = self._in_order(chunks, np.empty(shape, chunks.dtype))
            return [_with_checksum(chunk.reshape(-1).view(np.uint8)) for chunk in stored]
        with _SCRATCH.array(shape, chunks.dtype) as memory:
            is_in_order = chunks.flags.c_contiguous and not self.step_last
            stored = chunks if is_in_order else self._in_order(chunks, memory)
            if self.pcodec is None:
                stored = stored.reshape(len(chunks), -1).view(np.uint8)
            return [_with_checksum(self._codec.encode(chunk)) for chunk in stored]

    def _in_order(self, chunks: npt.NDArray[Any], memory: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Put chunks into `memory` in the order in which they are compressed."""
        # Beside each other last but for their own width, as they lie in `chunks`.
        axis = max(0, chunks.ndim - 2)
        target = np.moveaxis(self.step_first(memory, axis=1), 0, axis)
        copy_strided(target, np.moveaxis(chunks, 0, axis))
        return memory

    def decode_into(self, data: bytes | memoryview, target: npt.NDArray[Any]) -> None:
        """Decode one chunk into a contiguous array of `stored_shape`.

        Raises
        ------
        ValueError
            If its checksum is not the one that is stored with it, or its size not that of a chunk.
        """
        everything: Any = np.frombuffer(data, np.uint8)
        content, stored = everything[:-4], everything[-4:].tobytes()
        if checksum(content) != stored:
            msg = f"the checksum is {checksum(content).hex()} where {stored.hex()} is stored"
            raise ValueError(msg)
        if self.pcodec is not None:
            decompress_pcodec(content, target)
        elif self.blosc is not None:
            decompress_blosc(content, target)
        else:
            target[...] = np.frombuffer(content, target.dtype).reshape(target.shape)

    def decode(self, data: bytes | memoryview, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Decode one chunk; return it with dims (step, ...). Raises what `decode_into` does."""
        chunk: npt.NDArray[Any] = np.empty(self.stored_shape, dtype)
        self.decode_into(data, chunk)
        return self.step_first(chunk)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of a chunk in the order in which it is compressed."""
        return (*self.chunks[1:], *self.chunks[:1]) if self.step_last else self.chunks

    def step_first(self, chunks: npt.NDArray[Any], axis: int = 0) -> npt.NDArray[Any]:
        """Return a view of chunks of `stored_shape` with their step axis at `axis`."""
        return np.moveaxis(chunks, -1, axis) if self.step_last else chunks

    @functools.cached_property
    def _codec(self) -> Any:  # the package has no types
        if self.pcodec is not None:
            return numcodecs.get_codec({"id": "pcodec", **self.pcodec})
        if self.blosc is None:
            return None
        shuffle = _SHUFFLES[self.blosc["shuffle"]]
        return numcodecs.get_codec({"id": "blosc", **self.blosc, "shuffle": shuffle})


def _refuse_other_settings(
    found: Mapping[str, Any], known: Mapping[str, Collection[Any]], needed: Collection[str]
) -> None:
    """Refuse settings that the package may understand as something else, or not at all."""
    unknown = found.keys() - known.keys() or needed - found.keys()
    wrong = {key for key in found.keys() & known.keys() if not _is_in(found[key], known[key])}
    if unknown or wrong:
        msg = f"{found!r:.200} are no settings of a codec"
        raise ValueError(msg)


def _is_in(value: object, known: Collection[Any]) -> bool:
    if isinstance(known, range):  # for anything but an integer, it would be gone through
        return type(value) is int and value in known
    return type(value) in (int, str) and value in known


def checksum(data: Buffer) -> bytes:
    """Return what the ``crc32c`` codec appends to `data`."""
    value: int = crc32c(data)
    return _uint32(value)


def _with_checksum(data: Any) -> tuple[Buffer, bytes]:
    return data, checksum(data)


def _uint32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _step_last(rank: int) -> tuple[int, ...]:
    return (*range(1, rank), *([0] if rank else []))


_SHARDS: Final = "sharding_indexed"
_TRANSPOSE: Final = "transpose"
_BLOSC: Final = "blosc"
_PCODEC: Final = "numcodecs.pcodec"
_LITTLE_ENDIAN: Final = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC32C: Final = {"name": "crc32c"}
_SHUFFLES: Final = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_BLOSC_SETTINGS: Final[Mapping[str, Collection[Any]]] = {
    "typesize": range(1, 256),
    "cname": ("lz4", "lz4hc", "blosclz", "snappy", "zlib", "zstd"),
    "clevel": range(10),
    "shuffle": _SHUFFLES,
    "blocksize": range(2**31),
}
_PCODEC_SETTINGS: Final[Mapping[str, Collection[Any]]] = {
    "level": range(13),
    "mode_spec": ("auto", "classic"),
    "delta_spec": ("auto", "none", "try_consecutive", "try_lookback"),
    "paging_spec": ("equal_pages_up_to",),
    "delta_encoding_order": range(8),
    "equal_pages_up_to": range(1, 2**24),
}


@contextlib.contextmanager
def without_codec_warning() -> Iterator[None]:
    """Leave out that pcodec is no core codec of Zarr, which `Profile` says already."""
    # Here, because the recorder does without, and zarr-python takes 0.2 s to import.
    from zarr.errors import ZarrUserWarning

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Numcodecs codecs are not", ZarrUserWarning)
        yield
