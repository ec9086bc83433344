"""The metadata that are written without zarr-python are those that it would write."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec
from zarr.codecs.numcodecs import PCodec
from zarr.errors import ZarrUserWarning

from journals import attributes, random_steps, write_journal
from steptrace_schema.encoding.codecs import Encoding
from steptrace_schema.encoding.profiles import encoding
from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.format.json_text import metadata_json
from steptrace_schema.format.layout import ArraySpec
from steptrace_schema.journal.record_file import DTYPES
from steptrace_schema.moving.journal_mover import JournalMover
from steptrace_schema.storage.files import LocalFiles
from steptrace_schema.store.array_writer import ArrayWriter
from steptrace_schema.store.node_metadata import array_metadata
from steptrace_schema.store.nodes import Nodes, read_metadata
from steptrace_schema.store.writer import TraceWriter

if TYPE_CHECKING:
    from pathlib import Path

    from steptrace_schema.format.policy import Profile
    from steptrace_schema.names import Kind

FILLS: dict[str, Any] = {"f": np.nan, "i": -1, "b": False}

pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not:UserWarning")


def zarr_keywords(profile: Profile, spec: ArraySpec, steps: int) -> dict[str, Any]:
    """What section 7 of SPEC.md says of encoding, as zarr-python takes it."""
    element, row = np.dtype(spec.dtype), math.prod(spec.shape)
    smooth = spec.kind == "weights"
    repeats = profile == "fast" and not smooth and element.kind == "f"
    keywords: dict[str, Any] = {"compressors": [Crc32cCodec()]}
    if profile == "compact" and element.itemsize > 1:
        delta = {"delta_spec": "try_consecutive", "delta_encoding_order": 1}
        keywords["serializer"] = PCodec(level=8, **(delta if smooth else {"delta_spec": "none"}))
    elif profile != "none":
        name: Literal["lz4", "zstd"] = "lz4" if profile == "fast" else "zstd"
        size = element.itemsize
        whole = steps * row * size if profile == "fast" else 0
        blosc = BloscCodec(
            cname=name,
            clevel=5,
            shuffle="noshuffle" if repeats else "shuffle",
            typesize=size,
            blocksize=min(whole, 2**16) if repeats else whole,
        )
        keywords["compressors"] = [blosc, Crc32cCodec()]
    if spec.shape and (profile == "compact" or repeats):
        keywords["filters"] = [TransposeCodec(order=(*range(1, len(spec.shape) + 1), 0))]
    return keywords


@pytest.mark.parametrize("dtype", sorted(str(dtype) for dtype in DTYPES))
@pytest.mark.parametrize("kind", ["weights", "activations"])
@pytest.mark.parametrize("profile", ["fast", "compact", "none"])
def test_an_array_has_the_bytes_that_zarr_gives_it(
    tmp_path: Path, profile: Profile, kind: Kind, dtype: str
) -> None:
    kind_of_number = np.dtype(dtype).kind
    fill = np.iinfo(dtype).max if kind_of_number == "u" else FILLS[kind_of_number]
    for shape in ((), (3,), (7, 33)):
        dims = ("step", *("x", "y")[: len(shape)])
        spec = ArraySpec(kind, "a", dims[1:], shape, dtype, attributes={"units": "us", "n": 1.5})
        found = encoding(spec, profile, 16)
        path = tmp_path / str(len(shape))
        zarr.create_array(
            path,
            shape=(64, *shape),
            dtype=dtype,
            chunks=(16, *shape),
            shards=(16, *shape),
            fill_value=fill,
            dimension_names=dims,
            attributes=spec.attributes,
            chunk_key_encoding={"name": "default", "separator": "."},
            **zarr_keywords(profile, spec, 16),
        )
        metadata = array_metadata((64, *shape), dtype, dims, found, spec.attributes)
        assert metadata_json(metadata) == (path / "zarr.json").read_bytes()
        assert Encoding.stated(metadata, "a") == found


def test_groups_have_the_bytes_that_zarr_gives_them(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    metadata = array_metadata((2,), "int8", ("x",), Encoding((2,), None), {})
    Nodes(LocalFiles(ours), {}).create("a/b/c", metadata)
    group = zarr.open_group(theirs, mode="w", zarr_format=3)
    for key in ("a", "a/b"):
        group.require_group(key)
        name = f"{key}/zarr.json"
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def test_the_root_copies_what_is_in_the_files(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    JournalMover(write_journal(store, random_steps(5), shard_steps=2).directory, store).finish(
        "complete", None
    )
    copied = json.loads((store / "zarr.json").read_bytes())["consolidated_metadata"]
    with warnings.catch_warnings(action="ignore", category=ZarrUserWarning):  # no part of Zarr v3
        zarr.consolidate_metadata(store)
    assert copied == json.loads((store / "zarr.json").read_bytes())["consolidated_metadata"]


@pytest.mark.parametrize("shape", [(3, 5), (9, 40), (2, 50)])
@pytest.mark.parametrize("recorded", [3, 8, 21])
def test_rows_that_get_another_shape_keep_their_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], recorded: int
) -> None:
    for name, size in (("_SMALL_CHUNK", 64), ("_LARGEST_CHUNK", 256), ("_LARGEST_SHARD", 1024)):
        monkeypatch.setattr(f"steptrace_schema.encoding.chunk_shapes.{name}", size)
    store = TraceWriter(tmp_path / "run.zarr", attributes(shard_steps=8))
    before = np.random.default_rng(0).normal(size=(recorded, 3, 20)).astype(np.float32)
    spec = ArraySpec("inputs", "x", ("sample", "time"), (3, 20), "float32")
    store.array(spec, 0, recorded).write(0, before)
    after = np.random.default_rng(1).normal(size=(5, *shape)).astype(np.float32)
    larger = ArraySpec("inputs", "x", ("sample", "time"), shape, "float32")
    store.array(larger, recorded, 5).write(recorded, after)
    expected = np.full((recorded, *shape), np.nan, np.float32)
    common = (slice(None), *(slice(min(n)) for n in zip(shape, (3, 20), strict=True)))
    expected[common] = before[common]
    found = zarr.open_array(tmp_path / "run.zarr/inputs/x", mode="r")
    assert found.shape[1:] == shape
    values = np.asarray(found[: recorded + 5])
    np.testing.assert_array_equal(values, np.concatenate([expected, after]))
    unit = found.shards or found.chunks
    counts = [-(-n // size) for n, size in zip((recorded + 5, *shape), unit, strict=True)]
    for position in itertools.product(*map(range, counts)):
        assert (tmp_path / "run.zarr/inputs/x" / ".".join(["c", *map(str, position)])).exists()


def test_only_what_is_alike_from_step_to_step_is_compressed_in_whole_chunks() -> None:
    def block(kind: Kind) -> Any:
        found = encoding(
            ArraySpec(kind, "kernel", ("in", "out"), (784, 256), "float32"), "fast", 64
        )
        assert found.blosc is not None
        return found.blosc["blocksize"], 4 * math.prod(found.chunks)

    assert block("weights") == (200_704, 200_704)
    assert block("gradients") == (65_536, 200_704)


def test_rows_are_added_under_the_keys_that_the_array_states(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    rows = np.arange(30, dtype=np.float32).reshape(10, 3)
    array = zarr.create_array(
        path / "inputs/x",
        shape=(8, 3),
        dtype="float32",
        chunks=(4, 3),
        fill_value=float("nan"),
        compressors=[Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": "/"},
    )
    array[:5] = rows[:5]
    writer = ArrayWriter(Nodes(LocalFiles(path), read_metadata(path)), "inputs/x")
    writer.make_room(10, (3,), 5)
    writer.write(5, rows[5:])
    assert np.array_equal(zarr.open_array(path / "inputs/x", mode="r")[:10], rows)
    assert len([*(path / "inputs/x/c").glob("*/0")]) == 3


def test_rows_that_are_lost_are_not_written_over(tmp_path: Path) -> None:
    store = TraceWriter(tmp_path / "run.zarr", attributes(shard_steps=8))
    spec = ArraySpec("inputs", "x", ("sample",), (3,), "float32")
    store.array(spec, 0, 5).write(0, np.ones((5, 3), np.float32))
    (tmp_path / "run.zarr/inputs/x/c.0.0").unlink()
    metadata = read_metadata(tmp_path / "run.zarr")
    writer = ArrayWriter(Nodes(LocalFiles(tmp_path / "run.zarr"), metadata), "inputs/x")
    with pytest.raises(DamagedTraceError, match="'inputs/x' cannot be decoded in rows 0 to 4"):
        writer.write(5, np.ones((3, 3), np.float32))


def test_metadata_that_are_no_json_are_named(tmp_path: Path) -> None:
    TraceWriter(tmp_path / "run.zarr", attributes()).write_steps("weights", 0, [0])
    (tmp_path / "run.zarr/weights/zarr.json").write_text('{"node')
    with pytest.raises(DamagedTraceError, match=r"run\.zarr/weights/zarr\.json is not valid JSON"):
        TraceWriter(tmp_path / "run.zarr", attributes())


def test_a_journal_is_moved_without_importing_what_takes_long(tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    steps = random_steps(5)
    journal = write_journal(store, steps, shard_steps=2).directory
    program = (
        "import pathlib, sys\n"
        "from steptrace_tracer.record.retrying_mover import RetryingMover\n"
        "RetryingMover(*map(pathlib.Path, sys.argv[1:])).finish('complete', None)\n"
        "print(*sorted({'asyncio', 'obstore', 'tensorflow', 'zarr'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", program, str(journal), str(store)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.strip() == ""
    assert zarr.open_array(store / "weights/step", mode="r").shape == (len(steps),)
