"""What one run takes on disk, and to read, in the format's profiles and in common other ways.

    python benchmarks/reading.py                      256 steps
    python benchmarks/reading.py --steps 1000 --folder /tmp/runs

The run is an MLP 784-256-128-10 with Adam on scikit-learn's digits, scaled up to 28 x 28. Traces
are read through `open_trace`. Bytes are those that the process reads from files, as Linux counts
them, so they do not depend on the machine; times are of one thread, medians of five, with the
files in the page cache. A full scan reads every block, or step, in turn and keeps next to nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import h5py
import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from traced_runs import journal_of
from zarr.codecs import BloscCodec

from steptrace_analyzer.trace.open import open_trace
from steptrace_schema.encoding.codecs import Encoding
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.record import Record
from steptrace_schema.journal.where import journal_path
from steptrace_schema.moving.journal_mover import JournalMover

if TYPE_CHECKING:
    from collections.abc import Callable

KERNEL = "weights/sequential/dense/kernel"
KINDS = ("weights", "gradients", "activations")
PROFILES = ("none", "fast", "compact")
Arrays = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Reads:
    """How a file answers."""

    size: Callable[[str], int]
    step: Callable[[int], npt.NDArray[Any]]
    unit: Callable[[int], npt.NDArray[Any]]
    scan: Callable[[], object]
    load: Callable[[], npt.NDArray[Any]]


def trace_reads(store: Path) -> Reads:
    """Return how fast an opened trace can be read."""
    kernel = open_trace(store)[KERNEL]
    assert isinstance(kernel, xr.DataArray)

    def size(key: str) -> int:
        return sum(file.stat().st_size for file in (store / key).glob("c.*"))

    def scan() -> object:
        corners = kernel.data.map_blocks(lambda block: block[:1, :1, :1].copy(), dtype=kernel.dtype)
        return np.asarray(corners)

    return Reads(
        size,
        lambda step: kernel.isel(step=step).to_numpy(),
        lambda unit: kernel.isel(out=unit).to_numpy(),
        scan,
        kernel.to_numpy,
    )


def write_step_chunks(records: list[Record], keys: list[str], folder: Path) -> Reads:
    """Write one zstd chunk for each step with Zarr, as a direct writer does."""
    blosc = BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=4)
    arrays: dict[str, Any] = {}
    for key in keys:
        values = records[0].read(key)
        arrays[key] = zarr.create_array(
            folder / key,
            shape=(len(records), *values.shape),
            chunks=(1, *values.shape),
            dtype=values.dtype,
            compressors=[blosc],
        )
    for row, record in enumerate(records):
        for key in keys:
            arrays[key][row] = record.read(key)

    kernel = arrays[KERNEL]
    return Reads(
        lambda key: sum(f.stat().st_size for f in (folder / key / "c").rglob("*") if f.is_file()),
        lambda step: kernel[step],
        lambda unit: kernel[:, :, unit],
        lambda: [kernel[step].max() for step in range(len(records))],
        lambda: kernel[:],
    )


def write_npz(records: list[Record], keys: list[str], folder: Path) -> Reads:
    """Write one compressed npz file for each step."""
    import zipfile

    folder.mkdir()
    sizes: dict[str, int] = defaultdict(int)
    paths = []
    for row, record in enumerate(records):
        paths.append(folder / f"{row}.npz")
        np.savez_compressed(paths[-1], **{k: record.read(k) for k in keys})  # type: ignore[arg-type]
        with zipfile.ZipFile(paths[-1]) as archive:
            for member in archive.infolist():
                sizes[member.filename.removesuffix(".npy")] += member.compress_size

    def load(step: int) -> npt.NDArray[Any]:
        with np.load(paths[step]) as file:
            values: npt.NDArray[Any] = file[KERNEL]
        return values

    every = range(len(records))
    return Reads(
        lambda key: sizes[key],
        load,
        lambda unit: np.stack([load(step)[:, unit] for step in every]),
        lambda: [load(step).max() for step in every],
        lambda: np.stack([load(step) for step in every]),
    )


def write_h5(records: list[Record], keys: list[str], folder: Path) -> Reads:
    """Write one HDF5 file with gzip, one chunk for each step."""
    file = h5py.File(folder.with_suffix(".h5"), "w", rdcc_nbytes=0)  # keeps no chunk in memory
    for key in keys:
        values = records[0].read(key)
        file.create_dataset(
            key,
            shape=(len(records), *values.shape),
            dtype=values.dtype,
            chunks=(1, *values.shape),
            compression="gzip",
        )
    for row, record in enumerate(records):
        for key in keys:
            file[key][row] = record.read(key)
    file.flush()
    kernel = file[KERNEL]
    return Reads(
        lambda key: int(file[key].id.get_storage_size()),
        lambda step: kernel[step],
        lambda unit: kernel[:, :, unit],
        lambda: [kernel[step].max() for step in range(len(records))],
        lambda: kernel[:],
    )


def decode_speed(store: Path) -> float:
    """Return bytes a second of the codec alone: every chunk of the kernel, once, from memory."""
    array = zarr.open_array(store / KERNEL, mode="r")
    encoding = Encoding.of(array)
    values = np.asarray(array)
    extents = zip(array.shape, encoding.chunks, strict=True)
    encoded = []
    for corner in itertools.product(*(range(0, n - n % size, size) for n, size in extents)):
        parts = zip(corner, encoding.chunks, strict=True)
        chunk = values[tuple(slice(start, start + size) for start, size in parts)]
        encoded.append(b"".join(bytes(piece) for piece in encoding.encode(chunk)))
    target = np.empty(encoding.stored_shape, array.dtype)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        for data in encoded:
            encoding.decode_into(data, target)
        times.append(time.perf_counter() - began)
    return len(encoded) * target.nbytes / statistics.median(times)


def timed(read: Callable[[], object]) -> tuple[float, int]:
    """Return median seconds, and bytes that were read from files."""
    seconds, touched = [], []
    for _ in range(5):
        before, began = _bytes_read(), time.perf_counter()
        read()
        seconds.append(time.perf_counter() - began)
        touched.append(_bytes_read() - before)
    return statistics.median(seconds), min(touched)


def _bytes_read() -> int:
    """Return what this process has read so far, as Linux counts it."""
    return int(Path("/proc/self/io").read_text().split()[1])


def main() -> None:
    """Write, measure and print."""
    parser = argparse.ArgumentParser(description="Compare sizes and reads of ways to keep a run.")
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="where to keep the training run")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "Numcodecs codecs are not")
    with (
        dask.config.set(scheduler="synchronous"),
        tempfile.TemporaryDirectory() as temporary,
    ):
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        compare(arguments.steps, folder, Path(temporary) / "others")


def compare(steps: int, folder: Path, others: Path) -> None:
    """Write all files and print the tables."""
    others.mkdir()
    found: dict[str, Reads] = {}
    appended: dict[str, float] = {}
    decoding: dict[str, float] = {}
    store = journal_of("mlp", steps, "none", folder)
    records = [Record(place) for place in JournalReader(journal_path(store)).places()][:steps]
    keys = [k for k in sorted(records[0].keys) if k.split("/")[0] in KINDS]
    raw = {key: records[0].read(key).nbytes * steps for key in keys}
    writers = {
        "a zstd chunk for each step": write_step_chunks,
        "npz, gzip": write_npz,
        "h5, gzip": write_h5,
    }
    for name, write in writers.items():
        began = time.perf_counter()
        found[name] = write(records, keys, others / name.replace(" ", "_"))
        appended[name] = sum(raw.values()) / (time.perf_counter() - began)
    for profile in PROFILES:
        store = journal_of("mlp", steps, profile, folder)
        size = JournalReader(journal_path(store)).pending().nbytes
        began = time.perf_counter()
        JournalMover(journal_path(store), store, 1).finish("complete", None)
        appended[profile] = size / (time.perf_counter() - began)
        found[profile] = trace_reads(store)
        decoding[profile] = decode_speed(store)
    names = [*PROFILES, *writers]
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"\n{steps} steps, {sum(raw.values()) / 1e6:.0f} MB; size as a part of the raw bytes\n")
    print("| | " + " | ".join(KINDS) + " | append MB/s |\n" + "| --- " * (len(KINDS) + 2) + "|")
    for name in names:
        cells = []
        for kind in KINDS:
            inside = [key for key in keys if key.startswith(f"{kind}/")]
            stored = sum(found[name].size(key) for key in inside)
            cells.append(f"{stored / sum(raw[key] for key in inside):.2f}")
        print(f"| {name} | " + " | ".join(cells) + f" | {appended[name] / 1e6:.0f} |")
    print(f"\nReading `{KERNEL}`: bytes touched for each byte returned, and time\n")
    print(
        "| | one step: bytes | ms | one unit: bytes | ms | full scan MB/s | codec alone MB/s | "
        "part | into one array MB/s |\n" + "| --- " * 9 + "|"
    )
    for name in names:
        reads = found[name]
        cells = []
        step, unit = functools.partial(reads.step, steps // 2), functools.partial(reads.unit, 7)
        for read in (step, unit):
            seconds, touched = timed(read)
            cells += [f"{touched / read().nbytes:.1f}", f"{seconds * 1e3:.1f}"]
        whole = reads.load().nbytes
        scanned, loaded = (whole / timed(read)[0] / 1e6 for read in (reads.scan, reads.load))
        alone = decoding.get(name)
        of_codec = [f"{alone / 1e6:.0f}", f"{scanned * 1e6 / alone:.2f}"] if alone else ["", ""]
        cells += [f"{scanned:.0f}", *of_codec, f"{loaded:.0f}"]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
