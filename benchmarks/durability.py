"""What ``durability="fsync"`` costs: one record into the journal, with and without it.

    python benchmarks/durability.py [FOLDER]

Records are appended in turn, one of each durability, on the disk that holds FOLDER (the present
folder if not given), so that both see the same machine. Prints a table of medians and 90th
percentiles.
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
from steptrace_schema.journal.writer import JournalWriter

if TYPE_CHECKING:
    from steptrace_schema.format.policy import Durability

RECORDS = {"0.1 MB": (60, 25_000), "2 MB": (40, 500_000), "20 MB": (12, 5_000_000)}
"""How many records of how many float32 elements."""
DURABILITIES: tuple[Durability, ...] = ("process", "fsync")


def measure(folder: Path, count: int, elements: int) -> dict[Durability, list[float]]:
    """Return the milliseconds of each append."""
    values = np.random.default_rng(0).random(elements, dtype=np.float32)
    writers: dict[Durability, JournalWriter] = {}
    for durability in DURABILITIES:
        attributes = TraceAttributes(
            run_id="benchmark",
            created="2026-01-01T00:00:00+00:00",
            producer="benchmarks",
            policy=Policy(durability=durability),
        )
        journal = folder / f"{durability}-{elements}.journal"
        writers[durability] = JournalWriter.create(journal, Declaration(attributes, ()))
    taken: dict[Durability, list[float]] = {durability: [] for durability in DURABILITIES}
    for step in range(count):
        for durability, writer in writers.items():
            begin = time.perf_counter()
            writer.append(step, {"weights/w": values})
            taken[durability].append((time.perf_counter() - begin) * 1e3)
    return taken


def main() -> None:
    """Measure and print."""
    parent = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| record | durability | median ms | 90th percentile ms | ratio of medians |")
    print("| --- " * 5 + "|")
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        for name, (count, elements) in RECORDS.items():
            taken = measure(Path(folder), count, elements)
            base = statistics.median(taken["process"])
            for durability, times in taken.items():
                median, late = statistics.median(times), statistics.quantiles(times, n=10)[-1]
                ratio = f"{median / base:.1f}"
                print(f"| {name} | `{durability}` | {median:.2f} | {late:.2f} | {ratio} |")


if __name__ == "__main__":
    main()
