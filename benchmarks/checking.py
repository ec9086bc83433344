"""Processor time of reading and validating a trace, to compare two versions of steptrace.

    python benchmarks/checking.py write run.zarr       a kernel of 784 x 256 over 96 steps
    python benchmarks/checking.py measure run.zarr     with the version that is installed

Each figure is the least of several rounds, of one thread, with files in the page cache. Runs of two
versions are taken in turn, and their medians compared.
"""

from __future__ import annotations

import argparse
import resource
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np

from steptrace_analyzer.trace.open import open_trace
from steptrace_schema.format.attributes import TraceAttributes
from steptrace_schema.format.layout import ArraySpec
from steptrace_schema.format.policy import Policy
from steptrace_schema.journal.declaration import Declaration
from steptrace_schema.journal.where import journal_path
from steptrace_schema.journal.writer import JournalWriter
from steptrace_schema.moving.journal_mover import JournalMover
from steptrace_schema.validate import validate

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS, SHAPE, KERNEL = 96, (784, 256), "weights/dense/kernel"


def write(store: Path) -> None:
    """Write weights that move a little at each step, as those of a training do."""
    attributes = TraceAttributes(
        run_id="checking",
        created="2026-01-01T00:00:00+00:00",
        producer="benchmarks",
        policy=Policy(profile="fast"),
        shard_steps=32,
    )
    specs = (
        ArraySpec("weights", "dense/kernel", ("in", "out"), SHAPE, "float32"),
        ArraySpec("scalars", "loss", (), (), "float32"),
    )
    writer = JournalWriter.create(journal_path(store), Declaration(attributes, specs))
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.05, SHAPE).astype(np.float32)
    for step in range(STEPS):
        writer.append(step, {KERNEL: weights, "scalars/loss": np.array(1, np.float32)})
        moved = rng.random(SHAPE, np.float32) * (rng.random((SHAPE[0], 1)) < 0.4) * 1e-3
        weights = (weights - moved).astype(np.float32)
    writer.close("complete", None, attributes)
    JournalMover(journal_path(store), store).finish("complete", None)


def least(act: Callable[[], object], times: int, rounds: int) -> float:
    """Return processor milliseconds of one call, the least of several rounds."""
    act()
    found = []
    for _ in range(rounds):
        began = _processor()
        for _ in range(times):
            act()
        found.append((_processor() - began) / times * 1e3)
    return min(found)


def _processor() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(store: Path) -> dict[str, float]:
    """Return what each way of reading takes."""
    kernel: Any = open_trace(store)[KERNEL]
    return {
        "one unit over all steps": least(lambda: kernel.isel({kernel.dims[2]: 7}).load(), 20, 6),
        "one step": least(lambda: kernel.isel(step=50).load(), 20, 6),
        "full scan": least(lambda: kernel.max().load(), 1, 4),
        "open": least(lambda: open_trace(store), 3, 3),
        "validate, level data": least(lambda: validate(store, "data"), 1, 2),
    }


def main() -> None:
    """Write, or measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("act", choices=["write", "measure"])
    parser.add_argument("store", type=Path)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    if chosen.act == "write":
        write(chosen.store)
        return
    with dask.config.set(scheduler="synchronous"):
        for name, milliseconds in measure(chosen.store).items():
            print(f"{name}: {milliseconds:.2f} ms")


if __name__ == "__main__":
    main()
