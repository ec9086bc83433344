"""What the shapes of chunks and shards mean for appending, for point reads and for full scans.

    python benchmarks/chunk_shapes.py                      256 steps
    python benchmarks/chunk_shapes.py --steps 500 --folder /tmp/runs

The rows are 256 steps of the 784 x 256 kernel of the MLP of `benchmarks/reading.py`, its weights
and its gradients, encoded as profile `fast` does. A chunk spans all 784 inputs. One thread does
everything, on files in the page cache; times are medians of three, and bytes touched are those that
the process reads from files, the index of the shard included.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from reading import timed
from traced_runs import journal_of

from steptrace_schema.encoding.chunk_shapes import shard_shape
from steptrace_schema.encoding.objects import FolderSource
from steptrace_schema.encoding.profiles import encoding
from steptrace_schema.encoding.read_region import read_region
from steptrace_schema.format.layout import ArraySpec
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.record import Record
from steptrace_schema.journal.where import journal_path
from steptrace_schema.storage.files import LocalFiles
from steptrace_schema.store.array_writer import ArrayWriter
from steptrace_schema.store.node_metadata import array_metadata
from steptrace_schema.store.nodes import Nodes

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy.typing as npt

    from steptrace_schema.encoding.codecs import Encoding
    from steptrace_schema.encoding.objects import Read
    from steptrace_schema.names import Kind

    Values = npt.NDArray[np.float32]

KEYS = ("weights/sequential/dense/kernel", "gradients/sequential/dense/kernel")
ROWS = 256
ROW_SHAPE = (784, 256)
DIMS = ("step", "in", "out")
DTYPE = "float32"
SHARD_STEPS = 64  # what the recorder takes for this model
CHUNK_STEPS = (4, 8, 16, 32)
CHUNK_UNITS = (8, 16, 32)
CHUNK = (8, 784, 8)
SHARDS = (None, (8, 784, 256), (64, 784, 32), (64, 784, 256), (128, 784, 32), (256, 784, 256))
COLUMNS = (
    "append MB/s",
    "one step: bytes",
    "ms",
    "one unit: bytes",
    "ms",
    "full scan MB/s",
    "weights stored",
    "gradients stored",
    "files",
)


def main() -> None:
    """Read the rows, then write and read them in every shape."""
    parser = argparse.ArgumentParser(description="Compare shapes of chunks and shards.")
    parser.add_argument("--steps", type=int, default=ROWS, help="steps of the training run")
    parser.add_argument("--folder", type=Path, help="where to keep the training run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = _rows(arguments.steps, folder)
        print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        store = Path(temporary) / "shapes.zarr"
        print("\n| chunk: steps x units | " + " | ".join(COLUMNS) + " |")
        print("| --- " * (1 + len(COLUMNS)) + "|")
        for steps in CHUNK_STEPS:
            for units in CHUNK_UNITS:
                chunk = (steps, ROW_SHAPE[0], units)
                shard = shard_shape(ROW_SHAPE, chunk, 4, SHARD_STEPS)
                _print_row(f"{steps} x {units}", store, rows, _fast(chunk, shard))
        print("\n| shard: steps x units | " + " | ".join(COLUMNS) + " |")
        print("| --- " * (1 + len(COLUMNS)) + "|")
        for shards in SHARDS:
            name = f"{shards[0]} x {shards[-1]}" if shards else "none: a file for each chunk"
            _print_row(name, store, rows, _fast(CHUNK, shards))


def _rows(steps: int, folder: Path) -> list[Values]:
    store = folder / f"mlp-{steps}-fast.zarr"
    if not journal_path(store).exists():
        store = journal_of("mlp", steps, "fast", folder)
    records = [Record(place) for place in JournalReader(journal_path(store)).places()[:ROWS]]
    return [np.stack([record.read(key) for record in records]) for key in KEYS]


def _fast(chunks: tuple[int, ...], shards: tuple[int, ...] | None) -> list[Encoding]:
    """Return how profile `fast` encodes each of the two, in another shape."""
    kinds: tuple[Kind, ...] = ("weights", "gradients")
    specs = [ArraySpec(kind, "kernel", DIMS[1:], ROW_SHAPE, DTYPE) for kind in kinds]
    weights, gradients = (encoding(spec, "fast", SHARD_STEPS) for spec in specs)
    whole = {**(weights.blosc or {}), "blocksize": 4 * math.prod(chunks)}
    return [
        dataclasses.replace(weights, chunks=chunks, shards=shards, blosc=whole),
        dataclasses.replace(gradients, chunks=chunks, shards=shards),
    ]


def _print_row(name: str, store: Path, rows: list[Values], coded: list[Encoding]) -> None:
    seconds = []
    for _ in range(3):
        shutil.rmtree(store, ignore_errors=True)
        nodes = Nodes(LocalFiles(store), {})
        for key, found in zip(KEYS, coded, strict=True):
            nodes.create(key, array_metadata((ROWS, *ROW_SHAPE), DTYPE, DIMS, found, {}))
        began = time.perf_counter()
        for key, values, found in zip(KEYS, rows, coded, strict=True):
            _append(ArrayWriter(nodes, key), values, found)
        seconds.append(time.perf_counter() - began)
    cells = [f"{sum(values.nbytes for values in rows) / statistics.median(seconds) / 1e6:.0f}"]
    files = [[file.stat().st_size for file in (store / key).glob("c.*")] for key in KEYS]
    arrays = [zarr.open_array(store / key, mode="r") for key in KEYS]
    steps, inputs, units = (slice(0, extent) for extent in rows[0].shape)
    step, unit = slice(ROWS // 2 + 3, ROWS // 2 + 4), slice(7, 8)
    for region in ((step, inputs, units), (steps, inputs, unit)):
        elapsed, touched = _read(store, arrays, rows, coded, region)
        cells += [f"{touched:.1f}", f"{elapsed * 1e3:.1f}"]
    elapsed, _ = _read(store, arrays, rows, coded, (steps, inputs, units))
    cells.append(f"{rows[0].nbytes / elapsed / 1e6:.0f}")
    cells += [f"{sum(s) / v.nbytes:.2f}" for s, v in zip(files, rows, strict=True)]
    print(f"| {name} | " + " | ".join([*cells, str(len(files[0]))]) + " |", flush=True)


def _append(writer: ArrayWriter, values: Values, found: Encoding) -> None:
    count = max(SHARD_STEPS, (found.shards or found.chunks)[0])
    for start in range(0, ROWS, count):
        writer.write(start, values[start : start + count])


def _read(
    store: Path,
    arrays: list[zarr.Array[Any]],
    rows: list[Values],
    coded: list[Encoding],
    region: tuple[slice, ...],
) -> tuple[float, float]:
    """Return mean seconds, and mean bytes touched for each byte returned, of both arrays."""
    seconds, touched = [], []
    for key, array, values, found in zip(KEYS, arrays, rows, coded, strict=True):
        source = FolderSource(store / key)

        def objects(
            position: tuple[int, ...], array: Any = array, source: FolderSource = source
        ) -> AbstractContextManager[Read]:
            return source.opened(array.metadata.encode_chunk_key(position))

        def read(
            array: Any = array, objects: Any = objects, found: Encoding = found
        ) -> npt.NDArray[Any]:
            return read_region(found, region, array.dtype, array.fill_value, objects)

        assert np.array_equal(read(), values[region])
        elapsed, fetched = timed(read)
        seconds.append(elapsed)
        touched.append(fetched / values[region].nbytes)
    return float(np.mean(seconds)), float(np.mean(touched))


if __name__ == "__main__":
    main()
