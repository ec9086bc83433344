"""Writing a finished trace again, with the same values, under another profile."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING, Final

from steptrace_schema.errors import DamagedTraceError
from steptrace_schema.format.json_text import parse_json
from steptrace_schema.moving.resume import spec_of
from steptrace_schema.names import METADATA_FILE, STATISTICS, STEP
from steptrace_schema.storage.contents import read_file
from steptrace_schema.storage.files import LocalFiles
from steptrace_schema.store.array_writer import ArrayWriter
from steptrace_schema.store.nodes import Nodes
from steptrace_schema.store.opening import not_understood, read_attributes
from steptrace_schema.store.stored_array import StoredArray, read_arrays
from steptrace_schema.store.writer import TraceWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
    encoded = {key: array for key, array in _arrays(source).items() if _is_encoded(key, array)}
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


def _arrays(source: Path) -> dict[str, StoredArray]:
    try:
        return read_arrays(source)
    except ValueError as error:
        raise not_understood(source, error) from error


def _is_encoded(key: str, array: StoredArray) -> bool:
    """Whether profiles matter to an array: not to coordinates, statistics and static arrays."""
    names = array.metadata.dims or (None,)
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
    name = f"{key}/{METADATA_FILE}"
    try:
        before = read_arrays(source, {key: parse_json(read_file(source, name))})[key]
        rows = before.read((slice(start, stop), *(slice(0, n) for n in before.shape[1:])))
    except Exception as error:  # each codec raises its own kind
        msg = (
            f"{source}: array '{key}' cannot be decoded in rows {start} to {stop - 1} ({error}); "
            "'steptrace validate' lists all that is damaged"
        )
        raise DamagedTraceError(msg) from error
    metadata = parse_json(read_file(target, name))
    ArrayWriter(Nodes(LocalFiles(target), {key: metadata}), key).write(start, rows)
