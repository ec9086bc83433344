"""What a record of the journal costs: in a file of its own or a slot, with and without fsync.

    python benchmarks/durability.py [FOLDER]

Records are appended in turn, one of each variant, on the disk that holds FOLDER (the present folder
if not given), so that all see the same machine. When eight wait, they are released, as the recorder
does. Prints a table of medians, 90th percentiles and mean processor times.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from steptrace_schema.format.attributes import TraceAttributes
from steptrace_schema.format.policy import Policy
from steptrace_schema.journal.declaration import Declaration
from steptrace_schema.journal.reader import JournalReader
from steptrace_schema.journal.ring import RingSize
from steptrace_schema.journal.writer import JournalWriter

if TYPE_CHECKING:
    from steptrace_schema.format.policy import Durability

    Times = tuple[list[float], list[float]]
    """Of each append: ms that passed, and ms of processor time."""

RECORDS = {"0.1 MB": (160, 25_000), "2 MB": (160, 500_000), "20 MB": (48, 5_000_000)}
"""How many records of how many float32 elements."""
VARIANTS: tuple[tuple[str, Durability], ...] = (
    ("file", "process"),
    ("slot", "process"),
    ("file", "fsync"),
    ("slot", "fsync"),
)
WAITING = 8
"""Records that wait in the journal at most, so that slots are used again."""


def measure(folder: Path, count: int, elements: int) -> dict[tuple[str, Durability], Times]:
    """Return what each append took, but for those into slots that were not in use before."""
    values = np.random.default_rng(0).random(elements, dtype=np.float32)
    writers: dict[tuple[str, Durability], JournalWriter] = {}
    for place, durability in VARIANTS:
        attributes = TraceAttributes(
            run_id="benchmark",
            created="2026-01-01T00:00:00+00:00",
            producer="benchmarks",
            policy=Policy(durability=durability),
        )
        journal = folder / f"{place}-{durability}-{elements}.journal"
        writer = JournalWriter.create(journal, Declaration(attributes, ()))
        if place == "slot":
            writer.make_ring(RingSize(WAITING, 4096 * (values.nbytes // 4096 + 2)))
        writers[place, durability] = writer
    taken: dict[tuple[str, Durability], Times] = {variant: ([], []) for variant in VARIANTS}
    for step in range(count):
        for variant, writer in writers.items():
            reader = JournalReader(writer.directory, checks=False)
            begin, cpu = time.perf_counter(), time.process_time()
            if len(places := reader.places()) == WAITING:
                reader.release(places)
            writer.append(step, {"weights/w": values})
            if step >= WAITING:
                wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
                taken[variant][0].append(wall * 1e3)
                taken[variant][1].append(cpu * 1e3)
    return taken


def main() -> None:
    """Measure and print."""
    parent = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(
        "| record | in a | durability | median ms | 90th percentile ms | processor ms "
        "| ratio of medians |"
    )
    print("| --- " * 7 + "|")
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        for name, (count, elements) in RECORDS.items():
            taken = measure(Path(folder), count, elements)
            base = statistics.median(taken["file", "process"][0])
            for (place, durability), (times, cpu) in taken.items():
                median, late = statistics.median(times), statistics.quantiles(times, n=10)[-1]
                cells = [name, place, f"`{durability}`", f"{median:.2f}", f"{late:.2f}"]
                cells += [f"{statistics.mean(cpu):.2f}", f"{median / base:.1f}"]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
