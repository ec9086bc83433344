"""Objects that are encoded directly are what Zarr itself would read and write."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec
from zarr.codecs.numcodecs import PCodec

from journals import attributes
from steptrace_schema.encoding import chunk_shapes, codecs
from steptrace_schema.encoding.codecs import Encoding
from steptrace_schema.encoding.profiles import encoding
from steptrace_schema.encoding.read_region import read_region
from steptrace_schema.errors import TraceError
from steptrace_schema.format.layout import ArraySpec
from steptrace_schema.storage.files import LocalFiles
from steptrace_schema.store.array_writer import ArrayWriter
from steptrace_schema.store.nodes import Nodes, read_metadata
from steptrace_schema.store.writer import TraceWriter
from zarr_objects import objects_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from steptrace_schema.format.policy import Profile
    from steptrace_schema.names import Kind


def spec_of(shape: tuple[int, ...], dtype: str = "float32", kind: Kind = "gradients") -> ArraySpec:
    return ArraySpec(kind, "a", tuple(f"d{i}" for i in range(len(shape))), shape, dtype)


def values_of(rows: int, spec: ArraySpec, seed: int = 0) -> npt.NDArray[Any]:
    values = np.random.default_rng(seed).normal(size=(rows, *spec.shape)) * 100
    return values.astype(spec.dtype)


def zarr_keywords(found: Encoding) -> dict[str, Any]:
    """What makes Zarr encode an array like that."""
    compressors: list[Any] = [BloscCodec(**found.blosc)] if found.blosc else []
    keywords: dict[str, Any] = {"chunks": found.chunks, "shards": found.shards}
    keywords["compressors"] = [*compressors, Crc32cCodec()]
    if found.step_last:
        rank = len(found.chunks)
        keywords["filters"] = [TransposeCodec(order=(*range(1, rank), 0))]
    if found.pcodec:
        keywords["serializer"] = PCodec(**found.pcodec)
    return keywords


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut arrays of a few elements as finely as large ones are cut."""
    monkeypatch.setattr(chunk_shapes, "_SMALL_CHUNK", 256)
    monkeypatch.setattr(chunk_shapes, "_LARGEST_CHUNK", 1024)
    monkeypatch.setattr(codecs, "_TOGETHER", 2048)
    monkeypatch.setattr(chunk_shapes, "_LARGEST_SHARD", 4096)


@pytest.mark.usefixtures("small_units")
@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not:UserWarning")
@pytest.mark.parametrize("profile", ["fast", "compact", "none"])
@pytest.mark.parametrize("shape", [(), (3,), (40,), (7, 33), (5, 6, 19)])
@pytest.mark.parametrize("cuts", [(16, 16), (16, 5), (3, 20, 9)])
def test_zarr_and_tensorstore_read_what_was_written(
    tmp_path: Path, profile: Profile, shape: tuple[int, ...], cuts: tuple[int, ...]
) -> None:
    spec = spec_of(shape)
    _assert_is_read_by_others(
        tmp_path / "run.zarr", profile, spec, values_of(sum(cuts), spec), cuts
    )


@pytest.mark.usefixtures("small_units")
@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not:UserWarning")
@pytest.mark.parametrize("profile", ["fast", "compact", "none"])
@pytest.mark.parametrize("kind", ["weights", "gradients", "activations", "probe"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "uint8", "bool"])
def test_zarr_and_tensorstore_read_every_type_of_every_kind(
    tmp_path: Path, profile: Profile, kind: Kind, dtype: str
) -> None:
    spec, cuts = spec_of((7, 33), dtype, kind), (16, 5)
    chance = np.random.default_rng(0)
    size = (sum(cuts), *spec.shape, np.dtype(dtype).itemsize)
    # All bit patterns: NaN with payloads, infinities, subnormal numbers, -0.0.
    bits = chance.integers(0, 2 if dtype == "bool" else 256, size, dtype=np.uint8)
    values = bits.view(dtype)[..., 0]
    _assert_is_read_by_others(tmp_path / "run.zarr", profile, spec, values, cuts)


def _assert_is_read_by_others(
    path: Path,
    profile: Profile,
    spec: ArraySpec,
    values: npt.NDArray[Any],
    cuts: tuple[int, ...],
) -> None:
    """Write rows, so many at a time, and read them by zarr-python, and tensorstore if it can."""
    declared, start = attributes(shard_steps=16), 0
    policy = declared.policy.model_copy(update={"profile": profile})
    store = TraceWriter(path, declared.model_copy(update={"policy": policy}))
    for rows in cuts:
        store.array(spec, start, rows).write(start, values[start : start + rows])
        start += rows
    store.attributes = store.attributes.model_copy(update={"steps_recorded": {spec.kind: start}})
    store.trim()
    array = zarr.open_array(path / spec.key, mode="r")
    assert (array.shape, array.dtype) == (values.shape, values.dtype)
    assert np.asarray(array[...]).tobytes() == values.tobytes()
    if Encoding.of(array).pcodec is not None:
        assert profile == "compact"  # which tensorstore has no pcodec for
        return
    location = {"driver": "file", "path": str(path / spec.key)}
    other = tensorstore.open({"driver": "zarr3", "kvstore": location}).result()
    assert np.asarray(other.read().result()).tobytes() == values.tobytes()


@pytest.mark.usefixtures("small_units")
def test_a_chunk_has_the_bytes_that_zarr_gives_it(tmp_path: Path) -> None:
    spec = spec_of((7, 33))
    values = values_of(8, spec)
    found = encoding(spec, "fast", 8)
    keywords = zarr_keywords(found) | {"shards": None, "chunks": values.shape}
    array = zarr.create_array(
        tmp_path / "a", shape=values.shape, dtype="float32", fill_value=0, **keywords
    )
    array[...] = values
    whole = dataclasses.replace(found, chunks=values.shape, shards=None)
    stored = (tmp_path / "a" / "c" / "0" / "0" / "0").read_bytes()
    assert b"".join(whole.encode(values)) == stored


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not:UserWarning")
def test_what_is_written_is_read_back_from_the_array_itself(tmp_path: Path) -> None:
    profiles: tuple[Profile, ...] = ("fast", "compact", "none")
    for profile in profiles:
        spec = spec_of((7, 33))
        wanted = encoding(spec, profile, 8)
        array = zarr.create_array(
            tmp_path / profile, shape=(8, 7, 33), dtype="float32", **zarr_keywords(wanted)
        )
        assert Encoding.of(array) == wanted


def test_an_array_of_another_program_is_not_written_to(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a", shape=(8, 3), dtype="float32")
    with pytest.raises(TraceError, match="record into another trace"):
        Encoding.of(array)


def test_metadata_are_rewritten_a_few_times_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, rewritten = spec_of((2,)), []
    replace = LocalFiles.replace

    def count(files: LocalFiles, name: str, pieces: Any) -> None:
        rewritten.append(name)
        replace(files, name, pieces)

    monkeypatch.setattr(LocalFiles, "replace", count)
    store = TraceWriter(tmp_path / "run.zarr", attributes(shard_steps=8))
    for start in range(0, 8 * 200, 8):
        store.array(spec, start, 8).write(start, values_of(8, spec))
    assert 1 < rewritten.count("gradients/a/zarr.json") <= 8


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not:UserWarning")
@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("profile", ["fast", "compact", "none"])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_part_is_read_as_zarr_reads_it(
    tmp_path_factory: pytest.TempPathFactory, profile: Profile, data: st.DataObject
) -> None:
    shape = data.draw(st.sampled_from([(), (40,), (7, 33)]))
    spec, folder = spec_of(shape), tmp_path_factory.mktemp("store")
    found = encoding(spec, profile, 16)
    array = zarr.create_array(
        folder,
        name="a",
        shape=(40, *shape),
        dtype="float32",
        fill_value=np.nan,
        **zarr_keywords(found),
    )
    values = values_of(40, spec)
    nodes = Nodes(LocalFiles(folder), read_metadata(folder))
    ArrayWriter(nodes, "a").write(0, values)

    def part(extent: int) -> st.SearchStrategy[Any]:
        numbers = st.lists(st.integers(0, extent - 1), unique=True).map(sorted)
        bounds = st.tuples(*[st.integers(0, extent)] * 2).map(sorted)
        return bounds.map(lambda b: slice(*b)) | numbers.map(lambda n: np.array(n, dtype=np.intp))

    region = tuple(data.draw(part(extent)) for extent in array.shape)
    objects = objects_of(folder / "a", array)
    expected = values
    for axis, wanted in enumerate(region):
        expected = expected[(*[slice(None)] * axis, wanted)]
    found_part = read_region(found, region, array.dtype, np.nan, objects)
    assert found_part.tobytes() == np.ascontiguousarray(expected).tobytes()


def test_every_bit_of_a_float_survives_the_compact_profile() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, size=(16, 40, 16), dtype=np.uint32)
    values = bits.view(np.float32)  # NaN with payloads, infinities, subnormal numbers, -0.0
    for kind in ("weights", "gradients"):
        spec = dataclasses.replace(spec_of((40, 16)), kind=kind)
        found = dataclasses.replace(encoding(spec, "compact", 16), chunks=values.shape)
        stored = b"".join(found.encode(values))
        assert found.decode(stored, values.dtype).tobytes() == values.tobytes()


def test_a_flipped_bit_is_an_error() -> None:
    found = encoding(spec_of((40, 16)), "fast", 8)
    stored = bytearray(b"".join(found.encode(values_of(8, spec_of(found.chunks[1:])))))
    stored[len(stored) // 2] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        found.decode(bytes(stored), np.dtype("float32"))


@pytest.mark.parametrize("profile", ["none", "fast", "compact"])
def test_a_chunk_with_fewer_values_is_an_error_and_not_what_was_in_memory(profile: Any) -> None:
    found = encoding(spec_of((40, 16)), profile, 8)
    fewer = dataclasses.replace(found, chunks=(found.chunks[0], 20, found.chunks[2]))
    stored = b"".join(bytes(piece) for piece in fewer.encode(np.ones(fewer.chunks, np.float32)))
    with pytest.raises(ValueError, match=r"reshape|are to hold|pcodec finds"):
        found.decode_into(stored, np.zeros(found.stored_shape, np.float32))


def test_a_chunk_that_a_shard_does_not_have_reads_as_fill_values(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "a",
        shape=(8, 16),
        shards=(8, 16),
        chunks=(4, 8),
        dtype="f4",
        fill_value=-3,
        compressors=[Crc32cCodec()],
    )
    array[:4] = 5  # of the last two chunks there is nothing
    everything = (slice(0, 8), slice(0, 16))
    objects = objects_of(tmp_path / "a", array)
    found = read_region(Encoding.of(array), everything, array.dtype, -3, objects)
    assert np.array_equal(found, np.asarray(array[:]))
    assert (found[4:] == -3).all()
