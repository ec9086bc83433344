"""Writing a finished trace again, with the same values, under another profile."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr

from steptrace_schema.encoding.codecs import Encoding, without_codec_warning
from steptrace_schema.encoding.read_region import file_objects, read_region
from steptrace_schema.errors import DamagedTraceError, TraceError
from steptrace_schema.moving.resume import spec_of
from steptrace_schema.names import METADATA_FILE, STATISTICS, STEP
from steptrace_schema.storage.contents import read_file
from steptrace_schema.storage.files import LocalFiles
from steptrace_schema.store.array_writer import ArrayWriter
from steptrace_schema.store.nodes import Nodes
from steptrace_schema.store.opening import open_zarr, read_attributes
from steptrace_schema.store.writer import TraceWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from steptrace_schema.format.policy import Profile

_LEAST_SHARD_STEPS: Final = 16  # what profile `compact` wants of smooth kinds
_LARGEST_TASK: Final = 64 * 2**20


def reencode(
    source: Path, target: Path, profile: Profile, progress: Callable[[int, int], None]
) -> None:
    """Write the trace at `source` to the folder `target`, encoded as `profile` says.

    Arrays of tensors are read and encoded in one process for each core; coordinates, statistics
    and static arrays are copied.

    Parameters
    ----------
    source
        Folder of a finished trace.
    target
        A folder that does not exist, or is empty.
    profile
        How to encode. It is noted in the policy of the new trace.
    progress
        Called with the raw bytes done and the raw bytes in all.

    Raises
    ------
    DamagedTraceError
        If a chunk of `source` cannot be decoded.
    """
    attributes = read_attributes(source)
    shard_steps = max(_LEAST_SHARD_STEPS, attributes.shard_steps)
    policy = attributes.policy.model_copy(update={"profile": profile})
    update = {"policy": policy, "shard_steps": shard_steps}
    with without_codec_warning():
        members = dict(open_zarr(source).members(max_depth=None))
    encoded = {
        key: array
        for key, array in members.items()
        if isinstance(array, zarr.Array) and _is_encoded(key, array)
    }
    _copy_others(source, target, set(encoded))
    writer = TraceWriter(target, attributes.model_copy(update=update))
    tasks: list[tuple[str, int, int, int]] = []
    for key, array in encoded.items():
        writer.array(spec_of(key, array), 0, array.shape[0])
        row = array.dtype.itemsize * math.prod(array.shape[1:])
        count = max(1, _LARGEST_TASK // max(1, row * shard_steps)) * shard_steps
        for start in range(0, array.shape[0], count):
            stop = min(start + count, array.shape[0])
            tasks.append((key, start, stop, row * (stop - start)))
    total, done = sum(size for *_, size in tasks), 0
    progress(0, total)
    spawn = multiprocessing.get_context("spawn")  # the caller may have threads
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=spawn) as pool:
        running = {
            pool.submit(_reencode_rows, source, target, key, start, stop): size
            for key, start, stop, size in sorted(tasks, key=lambda task: -task[-1])
        }
        for future in as_completed(running):
            future.result()
            done += running[future]
            progress(done, total)
    writer.trim()
    writer.consolidate()


def _is_encoded(key: str, array: zarr.Array[Any]) -> bool:
    """Whether profiles matter to an array: not to coordinates, statistics and static arrays."""
    names = getattr(array.metadata, "dimension_names", None) or (None,)
    is_other = key.startswith(f"{STATISTICS}/") or key.rpartition("/")[2] == STEP
    return names[0] == STEP and not is_other


def _copy_others(source: Path, target: Path, encoded: set[str]) -> None:
    for file in source.rglob("*"):
        name = file.relative_to(source)
        inside = {parent.as_posix() for parent in name.parents}
        if file.is_dir() or inside & encoded or name.as_posix() == METADATA_FILE:
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / name)


def _reencode_rows(source: Path, target: Path, key: str, start: int, stop: int) -> None:
    with without_codec_warning():
        before = zarr.open_array(source / key, mode="r", zarr_format=3)
    try:
        rows = _read(source / key, before, start, stop)
    except Exception as error:  # each codec raises its own kind
        msg = (
            f"{source}: array '{key}' cannot be decoded in rows {start} to {stop - 1} ({error}); "
            "'steptrace validate' lists all that is damaged"
        )
        raise DamagedTraceError(msg) from error
    metadata = json.loads(read_file(target, f"{key}/{METADATA_FILE}"))
    ArrayWriter(Nodes(LocalFiles(target), {key: metadata}), key).write(start, rows)


def _read(folder: Path, array: zarr.Array[Any], start: int, stop: int) -> npt.NDArray[Any]:
    try:
        encoding = Encoding.of(array)
    except TraceError:  # of another program
        return np.asarray(array[start:stop])
    region = (slice(start, stop), *(slice(0, extent) for extent in array.shape[1:]))
    objects = file_objects(folder, array)
    return read_region(encoding, region, array.dtype, array.fill_value, objects)
