"""How fast, and in how much memory, two large traces are compared whole.

    python benchmarks/comparing_large.py [gigabytes of each] [folder]

Writes two runs of four kernels of 1,024 x 1,024 with their gradients, equal up to nine tenths of
their steps, compares them in a process of its own, and reads both whole without comparing, which is
what the codec allows. The files are deleted afterwards.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from steptrace_analyzer import diff, first_divergence, open_trace
from steptrace_analyzer.trace.select import get_tensor, tensor_paths
from steptrace_schema.format.attributes import Layer, TraceAttributes
from steptrace_schema.format.layout import ArraySpec
from steptrace_schema.format.policy import Policy
from steptrace_schema.journal.declaration import Declaration
from steptrace_schema.journal.where import journal_path
from steptrace_schema.journal.writer import JournalWriter
from steptrace_schema.moving.journal_mover import JournalMover
from steptrace_schema.names import REQUIRED_SCALARS, Kind

LAYERS, WIDTH = 4, 1024
STEP_BYTES = 2 * LAYERS * WIDTH * WIDTH * 4
NAMES = [f"layer_{number}" for number in range(LAYERS)]
KINDS: tuple[Kind, ...] = ("weights", "gradients")
INTEGERS = ("epoch", "batch", "batch_size")


def write(path: Path, steps: int, parts_at: int) -> None:
    """Write a run whose weights differ from `parts_at` on, moving it while it grows."""
    scalars = [
        ArraySpec("scalars", name, (), (), "int64" if name in INTEGERS else "float64")
        for name in REQUIRED_SCALARS
    ]
    tensors = [
        ArraySpec(kind, f"{name}/kernel", ("in", "out"), (WIDTH, WIDTH), "float32")
        for kind in KINDS
        for name in NAMES
    ]
    attributes = TraceAttributes(
        run_id=path.name,
        created="2026-01-01T00:00:00+00:00",
        producer="benchmark",
        policy=Policy(),
        layers=tuple(
            Layer(path=n, name=n, class_name="Dense", variables=(f"{n}/kernel",)) for n in NAMES
        ),
    )
    declaration = Declaration(attributes, tuple([*scalars, *tensors]))
    journal = JournalWriter.create(journal_path(path), declaration)
    mover = JournalMover(journal_path(path), path)
    rng, other = np.random.default_rng(0), np.random.default_rng(1)
    kernels = [rng.standard_normal((WIDTH, WIDTH), dtype="f4") for _ in NAMES]
    for step in range(steps):
        record: dict[str, Any] = {f"scalars/{n}": np.array(step) for n in INTEGERS}
        floats = [n for n in REQUIRED_SCALARS if n not in INTEGERS]
        record |= {f"scalars/{n}": np.array(float(step)) for n in floats}
        for name, kernel in zip(NAMES, kernels, strict=True):
            gradient = rng.standard_normal(kernel.shape, dtype="f4")
            record[f"weights/{name}/kernel"] = kernel.copy()
            record[f"gradients/{name}/kernel"] = gradient
            kernel -= np.float32(1e-3) * gradient
            if step == parts_at - 1:
                kernel += np.float32(1e-6) * other.standard_normal(kernel.shape, dtype="f4")
        journal.append(step, record)
        mover.move_ready()
    journal.append(steps, {f"weights/{n}/kernel": k for n, k in zip(NAMES, kernels, strict=True)})
    journal.close("complete", None, attributes)
    mover.finish("complete", None)


def read_whole(paths: list[Path]) -> str:
    """Decode every tensor of every trace, eight steps at once."""
    for path in paths:
        tree = open_trace(path)
        for kind in KINDS:
            for name in tensor_paths(tree, kind):
                array = get_tensor(tree, kind, name)
                for start in range(0, array.sizes["step"], 8):
                    np.asarray(array[start : start + 8])
    return "read"


def measure(what: str, paths: list[Path]) -> None:
    """Do one of the measurements in this process, and print it as JSON."""
    a, b = paths
    begin = time.perf_counter()
    if what == "diff":
        found: Any = diff(a, b)
        said = f"{found.verdict}, {found.first_difference}"
    elif what == "equal":
        said = diff(a, a).verdict
    elif what == "first":
        said = str(first_divergence(a, b).place)
    else:
        said = read_whole(paths)
    seconds = time.perf_counter() - begin
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": used.ru_maxrss, "said": said}))


def main(gigabytes: float, folder: str | None) -> None:
    """Write, compare, print a table."""
    steps = max(16, int(gigabytes * 1e9 / STEP_BYTES))
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        paths = [Path(temporary) / name for name in ("a.zarr", "b.zarr")]
        needed = 3 * gigabytes * 1e9
        if shutil.disk_usage(temporary).free < needed:
            msg = f"{temporary} has less than {needed / 1e9:.0f} GB free; give another folder"
            raise SystemExit(msg)
        for path, parts_at in zip(paths, (steps + 1, steps * 9 // 10), strict=True):
            write(path, steps, parts_at)
        raw = 2 * steps * STEP_BYTES
        print(
            f"{platform.platform()}, {os.cpu_count()} cores; {steps} steps, {raw / 1e9:.1f} GB raw"
        )
        head = ("what", "seconds", "processor s", "MB/s raw", "peak MB", "")
        print(f"\n| {' | '.join(head)} |\n" + "| --- " * len(head) + "|")
        for what in ("read", "diff", "equal", "first"):
            arguments = [sys.executable, __file__, f"--{what}", *map(str, paths)]
            done = subprocess.run(arguments, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout)
            speed = raw / row["seconds"] / 1e6
            cells = (f"{row['seconds']:.1f}", f"{row['cpu']:.1f}", f"{speed:.0f}")
            print(
                f"| {what} | {' | '.join(cells)} | {row['peak'] / 1024:.0f} | {row['said']} |",
                flush=True,
            )


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].startswith("--"):
        measure(sys.argv[1].removeprefix("--"), [Path(name) for name in sys.argv[2:]])
    else:
        size = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
        main(size, sys.argv[2] if len(sys.argv) > 2 else None)
